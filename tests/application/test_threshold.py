"""What tells unknown images: gamma set, following, fixed; p-values; the guard."""

import warnings

import numpy as np
import pytest
from drawn_world import CLASSES, fitted, miniature, plain, stream_files, world

from openood_interneg.application import threshold
from openood_interneg.application.detector import InterNegDetector, OODDetector
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError

ROUNDING = 1e-6  # of scores in float32 beside sums in float64


def rest():
    return [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]


def fresh_of(detector):
    """ID images that did not make the proxies."""
    return [p for p in rest() if detector._encoder.prepare(p)[1] not in detector._proxy_ids]


def calibrated(tpr=0.9, **values):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "threshold='fixed'")
        return plain(**values).fit(CLASSES, world() / "id", tpr=tpr)


def test_calibration_keeps_the_share_and_the_bank():
    detector = fitted()
    detector.score(stream_files())
    before = detector.bank_size
    with pytest.warns(UserWarning, match="24 of 56 calibration images made"):
        gamma = detector.calibrate(rest(), tpr=0.8)
    assert detector.bank_size == before
    fresh = fresh_of(detector)
    assert len(fresh) == 4 * 8
    reached = detector.score(fresh, update=False) >= gamma - ROUNDING
    assert 0.8 <= np.mean(reached) < 0.8 + 1 / 31
    with pytest.raises(DetectorError, match="no image to calibrate"):
        detector.calibrate([p for p in rest() if p not in fresh])
    with pytest.raises(SettingsError, match="tpr"):
        detector.calibrate(fresh, tpr=0)


def test_fit_splits_the_images_and_says_how(capsys):
    detector = plain(batch_size=8).fit(CLASSES, world() / "id", tpr=0.9)
    assert detector.fit_told.startswith("24 images fit the method, 32 calibrate: gamma 0.")
    assert "(follows 32 images at tpr 0.9)" in repr(detector)
    other = plain(batch_size=8).fit(CLASSES, world() / "id", calibrate=False)
    assert other.gamma is None and "not calibrated" in repr(other)
    assert other.calibrate(fresh_of(other), 0.9) == pytest.approx(detector.gamma, abs=ROUNDING)
    assert plain(gamma=0.3).fit(CLASSES, world() / "id").gamma == 0.3  # set: nothing to calibrate
    few = {k: sorted((world() / "id" / k).iterdir())[:8] for k in CLASSES}
    assert plain().fit(CLASSES, few).gamma is None  # 8 left: too few
    with pytest.warns(UserWarning, match="rests on 8 images only"):
        assert plain().fit(CLASSES, few, calibrate=True).gamma is not None
    with pytest.raises(DetectorError, match="all ID images made the image proxies"):
        plain(images_per_class=8).fit(CLASSES, few, calibrate=True)


@pytest.mark.slow
def test_each_image_is_judged_by_the_threshold_of_its_moment(tmp_path):
    detector = calibrated(batch_size=8)
    first = detector.gamma
    entries = [e for batch in detector.stream(stream_files()[:24]) for e in batch]
    detector.save(tmp_path / "a.safetensors")
    entries += [e for batch in detector.stream(stream_files()[24:]) for e in batch]
    gammas = [e.gamma for e in entries]
    assert first > detector.gamma and len(set(gammas)) > 5
    assert all((e.prediction == "unknown") == (e.score < e.gamma) for e in entries)
    assert detector.false_alarms() <= 0.1
    # brute force: the quantile of a detector that is calibrated at that moment
    other = calibrated(batch_size=8)
    for at in range(0, 24):
        said = other.predict(stream_files()[at])[0]
        assert said.gamma == pytest.approx(gammas[at], abs=ROUNDING)
        scores = np.sort(other.score(fresh_of(other), update=False))
        assert other.gamma == pytest.approx(scores[3], abs=ROUNDING)
    again = InterNegDetector.load(tmp_path / "a.safetensors", miniature())
    assert [e for batch in again.stream(stream_files()[24:]) for e in batch] == entries[24:]
    assert again.gamma == detector.gamma and repr(again) == repr(detector)
    margins = other.decision_function(stream_files()[24:30], update=False)
    names = [said.name for said in other.predict(stream_files()[24:30], update=False)]
    assert [name == "unknown" for name in names] == [m < 0 for m in margins]


def test_a_gamma_that_is_set_stays_and_none_goes_back():
    detector = calibrated()
    follows = detector.gamma
    detector.gamma = np.float32(0.25)
    assert detector.gamma == 0.25 and "gamma 0.25 (set)" in repr(detector)
    assert detector.predict(stream_files()[0], update=False)[0].gamma == 0.25
    detector.gamma = None
    assert detector.gamma == follows


def test_a_fixed_gamma_warns_and_can_be_taken_anew(monkeypatch):
    monkeypatch.setattr(threshold, "LOOK_EVERY", 8)
    with pytest.warns(UserWarning, match="threshold='fixed' keeps the gamma of now"):
        detector = plain(batch_size=8, threshold="fixed").fit(CLASSES, world() / "id", tpr=0.9)
    first = detector.gamma
    assert detector.false_alarms() <= 0.1 and "fixed, of 32 images" in repr(detector)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.score(stream_files())
        detector.score(stream_files())
    told = [str(w.message) for w in caught if "would now be unknown" in str(w.message)]
    assert len(told) == 1 and detector.false_alarms() > 0.2
    assert detector.gamma == first > detector.recalibrate() == detector.gamma
    assert detector.false_alarms() <= 0.1
    with pytest.raises(DetectorError, match="calibrate first"):
        fitted().false_alarms()


def test_p_values_need_no_calibration():
    detector = OODDetector(miniature(), "rationeg", alpha=0.2, cache=False, **WORDS)
    detector.fit(CLASSES, world() / "id")
    assert detector.gamma is None and "unknown where p <= 0.2" in repr(detector)
    said = detector.predict(stream_files())
    assert [s.name == "unknown" for s in said] == [s.p <= np.float32(0.2) for s in said]
    assert {s.gamma for s in said} == {None} and 4 < sum(s.name == "unknown" for s in said) < 44
    margins = detector.decision_function(stream_files(), update=False)
    names = [s.name for s in detector.predict(stream_files(), update=False)]
    assert [name == "unknown" for name in names] == [m <= 0 for m in margins]
    detector.calibrate(fresh_of(detector), 0.9)
    (said,) = detector.predict(stream_files()[0])
    assert said.gamma is not None and said.p is not None
    assert (said.name == "unknown") == (said.score < said.gamma)
    with pytest.raises(SettingsError, match="'interneg' has no p-values for alpha"):
        plain(alpha=0.1)


WORDS = {"corpus": str(world() / "words.txt"), "images_per_class": 6}


@pytest.mark.slow
def test_the_guard_keeps_the_calibration_images(tmp_path):
    detector = calibrated(protections={"id_guard": 0.15}, threshold="fixed")
    fresh = fresh_of(detector)
    detector.score(stream_files()[:24])
    assert np.mean(detector.score(fresh, update=False) < detector.gamma) <= 0.15
    detector.save(tmp_path / "a.safetensors")
    wanted = detector.score(stream_files()[24:])
    again = InterNegDetector.load(tmp_path / "a.safetensors", miniature())
    np.testing.assert_array_equal(again.score(stream_files()[24:]), wanted)
    assert np.mean(detector.score(fresh, update=False) < detector.gamma) <= 0.15
    with pytest.raises(SettingsError, match="protections are of InterNeg's bank"):
        OODDetector(miniature(), "mcm", protections={"max_age": 3})

"""Gamma: calibrated, watched by the guard, taken anew."""

import warnings

import numpy as np
import pytest
from drawn_world import CLASSES, fitted, miniature, plain, stream_files, world

from openood_interneg.application import threshold
from openood_interneg.application.detector import InterNegDetector
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError


def test_calibration_keeps_the_share_and_the_bank():
    detector = fitted()
    detector.score(stream_files())
    before = detector.bank_size
    rest = [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gamma = detector.calibrate(rest, tpr=0.8)
    assert detector.bank_size == before
    fresh = [p for p in rest if detector._encoder.prepare(p)[1] not in detector._proxy_ids]
    assert len(fresh) == 4 * 8
    assert 0.8 <= np.mean(detector.score(fresh, update=False) >= gamma) < 0.8 + 1 / 31
    made = [p for p in rest if p not in fresh]
    with pytest.raises(DetectorError, match="no image to calibrate"):
        detector.calibrate(made)
    with pytest.raises(SettingsError, match="tpr"):
        detector.calibrate(fresh, tpr=0)


def test_the_guard_keeps_the_calibration_images(tmp_path):
    rest = [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]
    detector = plain(protections={"id_guard": 0.15}).fit(CLASSES, world() / "id")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.calibrate(rest, tpr=0.9)
    fresh = [p for p in rest if detector._encoder.prepare(p)[1] not in detector._proxy_ids]
    detector.score(stream_files()[:24])
    assert np.mean(detector.score(fresh, update=False) < detector.gamma) <= 0.15
    detector.save(tmp_path / "a.safetensors")
    wanted = detector.score(stream_files()[24:])
    again = InterNegDetector.load(tmp_path / "a.safetensors", miniature())
    np.testing.assert_array_equal(again.score(stream_files()[24:]), wanted)
    assert np.mean(detector.score(fresh, update=False) < detector.gamma) <= 0.15


def test_gamma_can_follow_the_bank(tmp_path):
    rest = [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]

    def watching(**values):
        detector = plain(**values).fit(CLASSES, world() / "id")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector.calibrate(rest, tpr=0.9)
        return detector

    detector = watching()
    first = detector.gamma
    detector.score(stream_files())
    assert detector.gamma == first > detector.recalibrate() == detector.gamma
    fresh = [p for p in rest if detector._encoder.prepare(p)[1] not in detector._proxy_ids]
    assert np.mean(detector.score(fresh, update=False) >= detector.gamma) >= 0.9

    following = watching(protections={"recalibrate": 16}, batch_size=8)
    entries = [e for batch in following.stream(stream_files()[:24]) for e in batch]
    following.save(tmp_path / "a.safetensors")
    entries += [e for batch in following.stream(stream_files()[24:]) for e in batch]
    assert following.gamma < first
    again = InterNegDetector.load(tmp_path / "a.safetensors", miniature())
    rest_of_it = [e for batch in again.stream(stream_files()[24:]) for e in batch]
    assert rest_of_it == entries[24:] and again.gamma == following.gamma
    with pytest.raises(DetectorError, match="calibrate first"):
        fitted(protections={"recalibrate": 5}).score(stream_files())


def test_a_gamma_that_has_become_too_strict_is_told_once(monkeypatch):
    monkeypatch.setattr(threshold, "LOOK_EVERY", 8)
    rest = [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]
    detector = plain(batch_size=8).fit(CLASSES, world() / "id")
    with pytest.raises(DetectorError, match="calibrate first"):
        detector.false_alarms()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.calibrate(rest, tpr=0.9)
    assert detector.false_alarms() <= 0.1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.score(stream_files())
        detector.score(stream_files())
    share = detector.false_alarms()
    told = [str(w.message) for w in caught if "would now be unknown" in str(w.message)]
    assert len(told) == 1 and share > 0.2
    detector.recalibrate()
    assert detector.false_alarms() <= 0.1

"""Every method of the table that needs no file: fitted, scored, calibrated, saved, streamed."""

import warnings

import numpy as np
import pytest
import torch
from drawn_world import CLASSES, miniature, stream_files, world

from openood_interneg.application.detector import InterNegDetector, OODDetector
from openood_interneg.application.state import StateError
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.registry import list_methods
from openood_interneg.settings import SettingsError

SMALL = {
    "corpus": str(world() / "words.txt"),
    "images_per_class": 6,
    "num_negatives": 20,
    "steps": 2,
    "groups": 2,
    "candidates": 12,
}
USABLE = [
    method.name
    for method in list_methods()
    if "captions" not in method.needs and not method.missing_files(method.make_settings())
]
REST = [m.name for m in list_methods() if m.name not in USABLE]


def made(name, **values):
    method = next(m for m in list_methods() if m.name == name)
    small = {n: v for n, v in SMALL.items() if method.takes(n, v)}
    return OODDetector(miniature(), name, cache=False, settings=small, **values)


VIEWS = pytest.param("cover", marks=pytest.mark.slow)  # encodes 13 views of every image


@pytest.mark.parametrize("name", [VIEWS if name == "cover" else name for name in USABLE])
def test_a_method_is_fitted_scored_saved_and_streamed(name, tmp_path):
    detector = made(name, batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few words, few images
        detector.fit(CLASSES, world() / "id", tpr=0.9)
    files = stream_files()[:12]
    alone = detector.score(files, update=False)
    assert alone.shape == (12,) and np.isfinite(alone).all() and len(set(alone.tolist())) > 6
    assert detector.position == 0
    detector.predict(files[:6])
    detector.save(tmp_path / "a.safetensors")
    wanted = [e for batch in detector.stream(files[6:]) for e in batch]
    assert {e.prediction for e in wanted} <= {*CLASSES, "unknown"}
    assert all(e.unknown == (e.score < e.gamma) for e in wanted if e.gamma is not None)
    assert all((e.p is not None) == (name == "rationeg") for e in wanted)

    again = OODDetector.load(tmp_path / "a.safetensors", miniature())
    assert again.method.name == name and again.position == 6
    assert [e for batch in again.stream(files[6:]) for e in batch] == wanted
    assert repr(again) == repr(detector)
    lines = str(detector.explain(files[0], top=2)).splitlines()
    assert lines[0].startswith((*CLASSES, "unknown"))
    assert any(line.startswith("  labels: ") for line in lines[1:])
    if name != "interneg":
        with pytest.raises(StateError, match=f"holds a detector of method '{name}'"):
            InterNegDetector.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["mcm", "energy", "neglabel", "adaneg", "cover"])
def test_class_names_alone_are_enough(name):
    detector = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(CLASSES)
    assert detector.gamma is None and len(detector.score(stream_files()[:2])) == 2
    with pytest.raises(DetectorError, match="no threshold yet"):
        detector.predict(stream_files()[:2])
    entries = [e for b in detector.stream(stream_files()[:3], judge=False) for e in b]
    assert {e.prediction for e in entries} == {e.unknown for e in entries} == {None}
    assert {e.label for e in entries} <= set(CLASSES)


def test_what_a_method_lacks_is_one_error_before_the_model_is_loaded():
    for name in ("interneg", "tins", "rationeg", "mahalanobis"):
        detector = OODDetector("no such model", name, cache=False)
        with pytest.raises(DetectorError, match="needs some ID images of every class.*neglabel"):
            detector.fit(CLASSES)
        with pytest.raises(DetectorError, match="needs some ID images"):
            detector.fit_features(CLASSES)
    for name in REST:
        with pytest.raises(SettingsError, match=f"method '{name}' (needs a file|looks images up)"):
            OODDetector("no such model", name, cache=False)
    with pytest.raises(SettingsError, match="unknown method 'mmc'.*mcm"):
        OODDetector("no such model", "mmc")
    with pytest.raises(SettingsError, match="InterNegDetector is for method 'interneg'"):
        InterNegDetector(method="mcm")


def test_stored_features_do_what_images_do():
    detector, other = made("interneg"), made("interneg")
    detector.fit(CLASSES, world() / "id", tpr=0.9)
    files = [p for k in CLASSES for p in sorted((world() / "id" / k).iterdir())]
    rows, _ = detector._encoder.encode(files)
    labels = [k for k in CLASSES for _ in range(14)]
    other.fit_features(CLASSES, rows.numpy() * 3, labels, tpr=0.9)
    torch.testing.assert_close(other.space.proxies, detector.space.proxies)
    assert other.gamma == pytest.approx(detector.gamma, abs=1e-5)
    assert other.fit_told == detector.fit_told.replace(
        f"{detector.gamma:.6g}", f"{other.gamma:.6g}"
    )
    stream, ids = detector._encoder.encode(stream_files())
    said, wanted = other.predict_features(stream, ids), detector.predict(stream_files())
    assert [s.name for s in said] == [s.name for s in wanted]
    np.testing.assert_allclose([s.score for s in said], [s.score for s in wanted], atol=1e-4)
    with pytest.raises(DetectorError, match="55 labels come with features of shape"):
        other.fit_features(CLASSES, rows, labels[:-1])
    with pytest.raises(DetectorError, match="without labels"):
        other.fit_features(CLASSES, rows)
    with pytest.raises(DetectorError, match="3 numbers an image"):
        other.fit_features(CLASSES, rows[:, :3], labels)


def test_an_unreadable_image_is_none_where_asked(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    detector = made("mcm", gamma=0.3).fit(CLASSES)
    images = [stream_files()[0], tmp_path / "bad.png", stream_files()[1]]
    first, second, third = detector.predict(images, on_error="skip")
    assert second is None and [first, third] == detector.predict([images[0], images[2]])
    assert detector.predict(images[1:2], on_error="skip") == [None]
    with pytest.raises(ImageError, match="image 1"):
        detector.predict(images)


def test_an_explanation_is_a_few_lines():
    detector = made("interneg").fit(CLASSES, world() / "id", tpr=0.9)
    detector.score(stream_files())
    found = detector.explain(stream_files()[0], top=2)
    head, *lines = str(found).splitlines()
    assert head == f"unknown (score {found.score:.4g}, below {detector.gamma:.4g})"
    kinds = [line.split(":")[0].strip() for line in lines]
    assert kinds == ["because", "labels", "negatives"] + ["like a remembered image"] * 2
    remembered = made("rationeg", alpha=0.05).fit(CLASSES, world() / "id")
    remembered.score(stream_files())
    found = remembered.explain(stream_files()[0], top=3)
    assert ", p 0." in str(found) and "above 0.05)" in str(found) and len(found.bank) == 3
    assert sum(e.share for e in remembered.explain(stream_files()[0], top=500).bank) == (
        pytest.approx(1, abs=1e-6)
    )


# ---- scikit-learn's manners --------------------------------------------------------------------


def test_parameters_are_read_set_and_cloned():
    from sklearn.base import clone

    detector = InterNegDetector(
        miniature(), cache=False, beta=0.2, num_negatives=20, corpus=SMALL["corpus"]
    )
    params = detector.get_params()
    assert params["beta"] == 0.2 and params["method"] == "interneg" and params["gamma"] is None
    assert repr(type(detector)(**params)) == repr(detector)
    detector.fit(CLASSES, world() / "id")
    calibrated = detector.gamma
    other = clone(detector)
    assert type(other) is InterNegDetector and other.backbone is detector.backbone
    assert "not fitted" in repr(other) and other.get_params() == params
    assert detector.set_params(gamma=0.5).gamma == 0.5 and "4 classes" in repr(detector)
    assert detector.set_params(gamma=None).gamma == calibrated
    assert detector.set_params(beta=0.3) is detector and "not fitted" in repr(detector)
    assert detector.settings.beta == 0.3 and detector.settings.num_negatives == 20
    with pytest.raises(SettingsError, match="unknown setting 'betta'"):
        detector.set_params(betta=1)
    assert detector.settings.beta == 0.3


def test_another_method_keeps_the_settings_that_it_has():
    detector = OODDetector(miniature(), "interneg", cache=False, num_negatives=20, beta=0.2)
    detector.set_params(method="neglabel")
    assert detector.method.name == "neglabel" and detector.settings.num_negatives == 20
    tanl = OODDetector(miniature(), "tanl", cache=False, gamma=0.5, settings={"gamma": 2})
    assert tanl.gamma == 0.5 and tanl.settings.gamma == 2
    assert type(tanl)(**tanl.get_params()).settings == tanl.settings


def test_score_samples_is_score():
    detector = made("energy").fit(CLASSES, world() / "id", tpr=0.9)
    scores = detector.score(stream_files())
    np.testing.assert_array_equal(detector.score_samples(stream_files()), scores)
    margins = detector.decision_function(stream_files())
    np.testing.assert_allclose(margins, scores - detector.gamma, atol=1e-6)

"""Detectors of this package as pytorch-ood's, and pytorch-ood's on its features."""

import pytest
import torch
from drawn_world import CLASSES, TOLERANCE, miniature, plain, stream_files, world

from openood_interneg import OODDetector, as_pytorch_ood
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import MissingPackageError

api = pytest.importorskip("pytorch_ood.api")

KNN = {"k": 2, "images_per_class": 2}


def method(name: str, **values) -> OODDetector:
    places = {"cache": world() / "store"}
    return OODDetector(miniature(), name, **(places | values))


def batch(ours, count: int = 12) -> torch.Tensor:
    return torch.stack([ours.transform(path) for path in stream_files()[:count]])


@pytest.mark.parametrize("name", ["mcm", pytest.param("cover", marks=pytest.mark.slow)])
def test_scores_are_the_detectors_with_the_other_sign(name):
    detector = method(name).fit(CLASSES)
    ours = as_pytorch_ood(detector)
    assert isinstance(ours, api.Detector) and not ours.requires_fit
    own = torch.from_numpy(detector.score(stream_files()[:12], update=False))
    torch.testing.assert_close(ours(batch(ours)), -own)
    features = 3 * ours.encode(batch(ours))  # any length
    torch.testing.assert_close(ours.predict_features(features), -own)
    assert detector.memory_bytes == 0


def test_mcm_is_theirs():
    from pytorch_ood.detector import MCM

    ours = as_pytorch_ood(method("mcm").fit(CLASSES))
    theirs = MCM(miniature().encode_image, ours.detector.space.labels)
    torch.testing.assert_close(ours(batch(ours)), theirs(batch(ours)))


def test_update_lets_the_memory_learn_as_a_stream_does():
    ours = as_pytorch_ood(plain(gamma=0.5).fit(CLASSES, world() / "id"))
    ours(batch(ours))
    assert ours.detector.position == ours.detector.bank_size == 0
    learning = as_pytorch_ood(ours.detector, update=True)
    whole = learning(batch(ours, 24))
    assert ours.detector.position == 24 and ours.detector.bank_size > 0
    ours.detector.reset()
    parts = [learning(pixels) for pixels in batch(ours, 24).split(5)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=TOLERANCE, rtol=0)


def test_a_loader_fits_it_and_images_below_0_are_left_out():
    names = ("circle", *CLASSES[1:])
    detector = method("clip_knn", **KNN)
    with pytest.raises(DetectorError, match="class_names"):
        as_pytorch_ood(detector)
    ours = as_pytorch_ood(detector, names)
    assert ours.requires_fit
    with pytest.raises(api.RequiresFittingException):
        ours.predict(torch.zeros(1, 3, 64, 64))
    files = [sorted((world() / "id" / kind).iterdir())[:3] for kind in CLASSES]
    pixels = torch.stack([ours.transform(path) for of_class in files for path in of_class])
    labels = torch.arange(len(CLASSES)).repeat_interleave(3)
    with pytest.raises(DetectorError, match="no ID image"):
        ours.fit([(pixels, torch.full_like(labels, -1))])
    with_ood = [(pixels[:7], labels[:7]), (pixels, torch.full_like(labels, -1))]
    assert ours.fit([*with_ood, (pixels[7:], labels[7:])]) is ours
    assert not ours.requires_fit and detector.class_names == names
    direct = method("clip_knn", **KNN)
    direct.fit_features(names, miniature().encode_image(pixels), labels)
    own = torch.from_numpy(direct.score(stream_files()[:12]))
    torch.testing.assert_close(ours(batch(ours)), -own)
    with pytest.raises(DetectorError, match="class number 4"):
        ours.fit([(pixels, labels + 1)])


def test_it_stays_on_the_models_device():
    ours = as_pytorch_ood(method("mcm").fit(CLASSES))
    assert ours.to("cpu") is ours and ours.device == torch.device("cpu")
    with pytest.raises(DetectorError, match="device='meta'"):
        ours.to("meta")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_ood", None)
    with pytest.raises(MissingPackageError, match=r"openood-interneg\[pytorch-ood\]"):
        as_pytorch_ood(method("mcm").fit(CLASSES))

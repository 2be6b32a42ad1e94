"""The detector for applications, on drawn images and the embedded miniature."""

import numpy as np
import pytest
import torch
from drawn_world import CLASSES, fitted, plain, reference, stream_files, world
from PIL import Image

from openood_interneg.data.any_image import as_image, open_image
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.negatives.proxies import ProxyError
from openood_interneg.settings import SettingsError


def test_it_tells_drawn_classes_from_the_rest():
    detector = plain().fit(world() / "classes.txt", world() / "id")
    with pytest.warns(UserWarning, match="24 of 56 calibration images made the image proxies"):
        gamma = detector.calibrate(world() / "id", tpr=0.9)
    assert gamma == detector.gamma
    said = detector.predict(world() / "test")
    unknown = np.array([name == "unknown" for name, _ in said])
    assert unknown[0::2].mean() > 0.8 and unknown[1::2].mean() < 0.6
    right = [name == CLASSES[i // 2 % 4] for i, (name, _) in enumerate(said) if i % 2]
    assert np.mean(right) > 0.5
    assert detector.bank_size > 0 and detector.position == 48
    detector.reset()
    assert detector.bank_size == 0 and detector.position == 0
    assert detector.gamma == pytest.approx(gamma, abs=1e-6)
    np.testing.assert_array_equal([s for _, s in said], detector.score(stream_files()))


def test_paths_pil_arrays_and_tensors_are_alike():
    paths = stream_files()[:6]
    pil = [Image.open(p) for p in paths]
    arrays = [np.asarray(open_image(p)) for p in paths]
    floats = [a.astype(np.float32) / 255 for a in arrays]
    tensors = [torch.from_numpy(a).permute(2, 0, 1) for a in map(np.copy, arrays)]
    wanted = fitted().score(paths)
    forms = (pil, arrays, floats, tensors, [t / 255.0 for t in tensors])
    for form in (*forms, np.stack(arrays), torch.stack(tensors), [str(p) for p in paths]):
        np.testing.assert_array_equal(fitted().score(form), wanted)
    assert fitted().score(paths[0]).shape == (1,)
    assert fitted().score(arrays[0]).shape == (1,)
    assert fitted().score([]).shape == (0,)


def test_id_images_in_every_form():
    root = world() / "id"
    by_class = {k: sorted((root / k).iterdir()) for k in CLASSES}
    pairs = [(p, k) for k in CLASSES for p in by_class[k]]
    numbered = [(as_image(p), CLASSES.index(k)) for p, k in pairs]
    for images in (by_class, pairs, numbered):
        proxies = plain().fit(CLASSES, images).space.proxies
        torch.testing.assert_close(proxies, fitted().space.proxies, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plain(betta=1), SettingsError, "unknown setting 'betta'.*did you mean 'beta'"),
        (lambda: plain(beta=2), SettingsError, "beta is 2"),
        (lambda: plain(batch_size=0), SettingsError, "batch_size"),
        (lambda: plain(threads="many"), SettingsError, "threads"),
        (lambda: plain(alpha=1.5), SettingsError, "alpha"),
        (lambda: plain(threshold="moves"), SettingsError, "threshold"),
        (lambda: plain(gamma=float("nan")), SettingsError, "gamma"),
        (lambda: plain(protections={"age": 3}), SettingsError, "unknown setting 'age'"),
        (lambda: plain(bank="none", protections={"max_age": 3}), SettingsError, "no bank"),
        (lambda: plain().score(stream_files()), DetectorError, "not fitted"),
        (lambda: fitted(gamma=None).predict(stream_files()), DetectorError, "no threshold yet"),
        (
            lambda: fitted(protections={"id_guard": 0.1}).score(stream_files()),
            DetectorError,
            "calibrate first",
        ),
    ],
)
def test_wrong_use_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_protections_off_are_the_paper_and_on_they_hold():
    once = [stream_files()[0]] * 30
    detector = fitted(protections=ProtectionSettings())
    np.testing.assert_array_equal(detector.score(stream_files()), reference())

    free, limited = fitted(), fitted(protections={"admissions": 3})
    for model in (free, limited):
        model.score(stream_files())
    assert free.bank_size > limited.bank_size == 3
    other = fitted(protections={"admissions": 3}, batch_size=5)
    other.score(stream_files())
    assert other.bank_size == 3  # however the stream is cut

    free, diverse = fitted(), fitted(protections={"diversity": 0.999})
    for model in (free, diverse):
        model.score(once)
    assert free.bank_size == 30 and diverse.bank_size == 1

    aged = fitted(protections={"max_age": 10})
    aged.score(once)
    assert aged.bank_size > 0
    ids = [t for i, t in enumerate(stream_files()) if i % 2 and reference()[i] > 0.9]
    aged.score(ids[:12])
    assert aged.bank_size == 0


def test_missing_and_unknown_classes_of_id_images(tmp_path):
    root = world() / "id"
    with pytest.raises(DetectorError, match="no subfolder for 1 of 5 classes: 'dragon'"):
        plain().fit([*CLASSES, "dragon"], root)
    with pytest.raises(DetectorError, match="'hart'.*did you mean 'heart'"):
        plain().fit(CLASSES, {"hart": root / "heart"})
    with pytest.raises(DetectorError, match="class number 7"):
        plain().fit(CLASSES, [(stream_files()[0], 7)])
    with pytest.raises(DetectorError, match="without its class"):
        plain().fit(CLASSES, stream_files())
    with pytest.raises(DetectorError, match="no ID images"):
        plain().fit(CLASSES, [])
    with pytest.raises(ProxyError, match="'tree'"):
        plain().fit(CLASSES, {k: root / k for k in CLASSES[:3]})

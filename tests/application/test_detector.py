"""The detector for applications, on drawn images and the embedded miniature."""

import atexit
import functools
import pickle
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from openood_interneg.application import scorer, threshold
from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.state import StateError
from openood_interneg.application.stream import Scored
from openood_interneg.data.any_image import as_image, open_image
from openood_interneg.data.images import ImageError
from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.negatives.proxies import ProxyError
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.factory import load_backbone

CLASSES = ID_KINDS[:4]
WORDS = (
    "dog river engine cloud ladder noise stripes checks dots texture pattern letter bird train "
    "whale wrench gear barn banana knife chair table bottle lamp phone boat plane bridge"
).split()
# Between cuts of the stream; fp32 sums differ in their last bits, and log-sums at scale 100 too.
TOLERANCE = 1e-4


@functools.lru_cache
def world() -> Path:
    """A folder with id/<class>/*.png, test/*.png, words.txt and classes.txt."""
    root = Path(tempfile.mkdtemp(prefix="interneg-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for label, kind in enumerate(CLASSES):
        (root / "id" / kind).mkdir(parents=True)
        for i in range(14):
            draw(kind, image_rng(0, "train", 100 * label + i)).save(
                root / "id" / kind / f"{i:02d}.png"
            )
    (root / "test").mkdir()
    other = FAR_KINDS["textures"] + NEAR_KINDS
    for i in range(48):
        kind = CLASSES[i // 2 % 4] if i % 2 else other[i % len(other)]
        draw(kind, image_rng(0, "test", i)).save(root / "test" / f"{i:03d}.png")
    (root / "words.txt").write_text("\n".join(WORDS))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def stream_files() -> list[Path]:
    return sorted((world() / "test").iterdir())


@functools.lru_cache
def miniature():
    return load_backbone("miniature")


def plain(**values) -> InterNegDetector:
    options = dict(
        corpus=str(world() / "words.txt"),
        images_per_class=6,
        num_negatives=20,
        steps=3,
        cache=False,
    )
    return InterNegDetector(miniature(), **(options | values))


def fitted(**values) -> InterNegDetector:
    return plain(**({"gamma": 0.5} | values)).fit(CLASSES, world() / "id")


@functools.lru_cache
def reference() -> np.ndarray:
    return fitted().score(stream_files())


def test_it_tells_drawn_classes_from_the_rest():
    detector = plain().fit(world() / "classes.txt", world() / "id")
    with pytest.warns(UserWarning, match="24 of 56 calibration images made the image proxies"):
        gamma = detector.calibrate(world() / "id", tpr=0.9)
    assert gamma == detector.gamma
    said = detector.predict(world() / "test")
    unknown = np.array([name == "unknown" for name, _ in said])
    assert unknown[0::2].mean() > 0.9 and unknown[1::2].mean() < 0.6
    right = [name == CLASSES[i // 2 % 4] for i, (name, _) in enumerate(said) if i % 2]
    assert np.mean(right) > 0.5
    assert detector.bank_size > 0 and detector.position == 48
    detector.reset()
    assert detector.bank_size == 0 and detector.position == 0 and detector.gamma == gamma
    np.testing.assert_array_equal([s for _, s in said], detector.score(stream_files()))


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


@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    got = fitted(batch_size=batch_size).score(stream_files())
    np.testing.assert_allclose(got, reference(), atol=TOLERANCE)
    detector = fitted(batch_size=batch_size)
    calls = [detector.score(stream_files()[i : i + 5]) for i in range(0, 48, 5)]
    np.testing.assert_allclose(np.concatenate(calls), reference(), atol=TOLERANCE)


def test_a_dataloader_and_reading_threads_give_the_same_scores(monkeypatch):
    class Pixels(torch.utils.data.Dataset):
        def __len__(self):
            return 48

        def __getitem__(self, i):
            return torch.from_numpy(np.array(as_image(stream_files()[i]))).permute(2, 0, 1)

    detector = fitted()
    loader = DataLoader(Pixels(), batch_size=32, num_workers=2)
    got = np.concatenate([detector.score(pixels) for pixels in loader])
    np.testing.assert_array_equal(got, reference())
    plain, ahead = scorer.encoded_ahead, functools.partial(scorer.encoded_ahead, overlap=True)
    for workers, encoded_ahead in ((0, plain), (3, plain), (3, ahead)):
        monkeypatch.setattr(scorer, "encoded_ahead", encoded_ahead)
        detector = fitted()
        entries = [e for batch in detector.stream(stream_files(), workers=workers) for e in batch]
        np.testing.assert_array_equal(np.float32([e.score for e in entries]), reference())


def in_threads(jobs):
    errors = []

    def run(job):
        try:
            job()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_score_without_updates_or_take_turns():
    detector = fitted()
    # without updates, all threads get what one gets
    alone, got = detector.score(stream_files(), update=False), {}
    jobs = [
        lambda i=i: got.setdefault(i, detector.score(stream_files()[i::4], update=False))
        for i in range(4)
    ]
    assert in_threads(jobs) == []
    for i in range(4):
        np.testing.assert_allclose(got[i], alone[i::4], atol=TOLERANCE)

    # by arrival: whole calls, one after the other
    detector = fitted(threads="arrival", bank="none")
    got = {}
    jobs = [lambda i=i: got.setdefault(i, detector.score(stream_files()[i::4])) for i in range(4)]
    assert in_threads(jobs) == []
    alone = fitted(bank="none").score(stream_files())
    for i in range(4):
        np.testing.assert_allclose(got[i], alone[i::4], atol=TOLERANCE)
    assert detector.position == 48


def test_calls_in_arrival_order_are_whole(tmp_path):
    detector = fitted(threads="arrival")
    log = []
    step = detector._detector.step
    detector._detector.step = lambda h, k: (log.append(k.tolist()), step(h, k))[1]
    jobs = [lambda i=i: detector.score(stream_files()[12 * i : 12 * i + 12]) for i in range(4)]
    saves = [lambda i=i: detector.save(tmp_path / f"{i}.safetensors") for i in range(3)]
    assert in_threads([*jobs, *saves]) == []
    ids = {k: p for p in stream_files() for k in [detector._encoder.prepare(p)[1]]}
    order = [ids[k] for batch in log for k in batch]
    again = fitted()
    again.score(order)
    assert again.bank_size == detector.bank_size
    # what was saved meanwhile is a moment between two calls
    for i in range(3):
        kept = InterNegDetector.load(tmp_path / f"{i}.safetensors", miniature())
        assert kept.position % 12 == 0
        alone = fitted()
        alone.score(order[: kept.position])
        assert kept.bank_size == alone.bank_size


def test_pickling_and_forking_are_refused(monkeypatch):
    detector = fitted()
    with pytest.raises(DetectorError, match="save"):
        pickle.dumps(detector)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(DetectorError, match="copied into another process"):
        detector.score(stream_files()[:1])
    assert detector.score(stream_files()[:1], update=False).shape == (1,)


def test_a_call_with_a_bad_image_changes_nothing(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    detector = fitted(batch_size=4)
    with pytest.raises(ImageError, match=r"image 10.*bad\.png"):
        detector.score([*stream_files()[:10], bad])
    assert detector.position == 0 and detector.bank_size == 0
    np.testing.assert_allclose(detector.score(stream_files()), reference(), atol=TOLERANCE)


def test_a_stream_goes_on_after_a_bad_image(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    paths = stream_files()
    paths[5:5] = [bad]
    detector = fitted(batch_size=8)
    entries = [e for batch in detector.stream(paths) for e in batch]
    assert [e.position for e in entries] == list(range(49)) and detector.failed == 1
    assert entries[5] == Scored(5, str(bad), error=entries[5].error)
    assert "bad.png" in entries[5].error and entries[5].unknown is None
    rest = [e for e in entries if e.error is None]
    np.testing.assert_allclose([e.score for e in rest], reference(), atol=TOLERANCE)
    assert all(e.unknown == (e.score < 0.5) for e in rest)

    detector = fitted(batch_size=4)
    with pytest.raises(ImageError, match="position 5"):
        list(detector.stream(paths, on_error="stop"))
    assert detector.position == 4
    with pytest.raises(SettingsError, match="on_error"):
        list(detector.stream(paths, on_error="ignore"))


def test_an_explanation_adds_up():
    detector = fitted()
    detector.score(stream_files())
    before = detector.bank_size
    for path in stream_files()[:8]:
        found = detector.explain(path, top=50)
        assert len(found.labels) == 4 and len(found.negatives) == len(detector.space.negatives)
        masses = [[v for _, v in found.labels], [v for _, v in found.negatives]]
        total = sum(map(sum, masses)) + sum(entry.share for entry in found.bank)
        assert total == pytest.approx(1, abs=1e-4)
        assert sum(masses[0]) == pytest.approx(found.score, abs=1e-4)
        assert found.score == pytest.approx(detector.score(path, update=False)[0], abs=1e-5)
        cosines = [entry.cosine for entry in found.bank]
        assert cosines == sorted(cosines, reverse=True)
        assert all(len(entry.words) == 3 for entry in found.bank)
        assert (found.dominant is None) == (found.prediction != "unknown")
    assert detector.bank_size == before and detector.position == 48


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(tmp_path):
    detector = fitted()
    detector.score(stream_files()[:20])
    detector.save(tmp_path / "a.safetensors")
    wanted = detector.score(stream_files()[20:])
    for other in (
        InterNegDetector.load(tmp_path / "a.safetensors"),
        InterNegDetector.load(tmp_path / "a.safetensors", miniature()),
        fitted(gamma=None).load(tmp_path / "a.safetensors"),
        plain().load(tmp_path / "a.safetensors", class_names=CLASSES, id_images=world() / "id"),
    ):
        assert other.gamma == 0.5 and other.position == 20
        assert other.class_names == detector.class_names
        np.testing.assert_array_equal(other.score(stream_files()[20:]), wanted)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: fitted(beta=0.2), "beta: 0.35 in the state, 0.2 here"),
        (lambda: fitted(seed=1), "seed: 0 in the state, 1 here"),
        (lambda: fitted(num_negatives=5), "num_negatives: 20.*negatives digest"),
        (lambda: fitted(batch_size=8), "batch_size: 32 in the state, 8 here"),
        (lambda: fitted(preprocess="openood_vlm"), "preprocess"),
        (lambda: fitted(protections={"diversity": 0.9}), "protection diversity"),
        (
            lambda: plain().fit(CLASSES[:3], {k: world() / "id" / k for k in CLASSES[:3]}),
            "class names: 4 names in the state, 3 names here",
        ),
    ],
)
def test_a_foreign_state_is_refused_with_what_differs(tmp_path, other, named):
    fitted().save(tmp_path / "a.safetensors")
    with pytest.raises(StateError, match=named):
        other().load(tmp_path / "a.safetensors")


def test_a_state_of_other_weights_is_refused(tmp_path):
    import copy

    fitted().save(tmp_path / "a.safetensors")
    changed = copy.copy(miniature())
    changed.__dict__["digest"] = "another"
    with pytest.raises(StateError, match="backbone weights: .* in the state, another here"):
        InterNegDetector.load(tmp_path / "a.safetensors", changed)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plain(betta=1), SettingsError, "unknown setting 'betta'.*did you mean 'beta'"),
        (lambda: plain(beta=2), SettingsError, "beta is 2"),
        (lambda: plain(batch_size=0), SettingsError, "batch_size"),
        (lambda: plain(threads="many"), SettingsError, "threads"),
        (lambda: plain(gamma=1.5), SettingsError, "gamma"),
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

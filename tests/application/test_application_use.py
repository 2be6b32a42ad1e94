"""What a user of the detector is told: order of calls, progress, what it is, what a state is of."""

import json
import shutil

import numpy as np
import pytest
import torch
from drawn_world import (
    CLASSES,
    OPTIONS,
    fitted,
    miniature,
    plain,
    plain_miniature,
    stream_files,
    world,
)
from PIL import Image

from openood_interneg.application import state as state_module
from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.state import StateError
from openood_interneg.cli.score import parse_protections
from openood_interneg.cli.score_input import open_input
from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import InterNegSettings, SettingsError
from openood_interneg.vlm.factory import load_backbone


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.predict(stream_files()[:1]),
        lambda d: d.stream(stream_files()[:1]),
        lambda d: d.calibrate(stream_files()),
        lambda d: d.recalibrate(),
        lambda d: d.false_alarms(),
        lambda d: d.explain(stream_files()[0]),
        lambda d: d.save("never.safetensors"),
        lambda d: d.reset(),
    ],
)
def test_before_fit_every_call_says_fit_and_loads_no_model(call):
    detector = InterNegDetector("no such model", cache=False)
    with pytest.raises(DetectorError, match=r"not fitted; call fit\("):
        call(detector)


def test_a_stream_is_checked_when_it_is_asked_for():
    for values in ({"on_error": "ignore"}, {"workers": -1}, {"workers": 10**9}):
        with pytest.raises(SettingsError, match=next(iter(values))):
            fitted().stream(stream_files(), **values)
    with pytest.raises(DetectorError, match="no threshold"):
        fitted(gamma=None).stream(stream_files())


def test_repr_says_what_the_detector_is():
    assert repr(InterNegDetector("ViT-B/16", cache=False)) == (
        "<InterNegDetector: InterNeg on ViT-B/16 (fp32), not fitted>"
    )
    detector = fitted(gamma=None)
    assert "InterNeg on miniature (fp32), 4 classes, 20 negative texts, not cal" in repr(detector)
    detector.gamma = 0.25
    assert "gamma 0.25 (set)" in repr(detector)
    with pytest.warns(UserWarning):
        detector.calibrate(world() / "id", tpr=0.9)
    detector.score(stream_files())
    assert "(follows 32 images at tpr 0.9), 48 images seen" in repr(detector)
    assert f"bank {detector.bank_size} of 2000" in repr(detector)
    detector.gamma = 0.1
    assert "gamma 0.1 (set)" in repr(detector)


def test_fit_and_calibrate_tell_how_far_they_are(capsys, monkeypatch):
    monkeypatch.setitem(OPTIONS, "cache", False)  # stored texts are no work to tell of
    told = {}

    def progress(what, done, total):
        seen, _ = told.get(what, (0, 0))
        told[what] = seen + done, total

    detector = plain().fit(CLASSES, world() / "id", calibrate=False, progress=progress)
    assert {"model", "ID images", "labels"} < set(told)
    with pytest.warns(UserWarning):
        detector.calibrate(world() / "id", progress=progress)
    assert all(done == total > 0 for done, total in told.values()), told
    assert told["ID images"][1] == 24 and told["calibration images"][1] == 56
    assert capsys.readouterr().err == ""
    plain().fit(CLASSES, world() / "id", progress=True)
    err = capsys.readouterr().err
    assert "ID images" in err and "24 images fit the method, 32 calibrate: gamma 0." in err


# ---- a state and what it is of -----------------------------------------------------------------


def test_a_state_says_which_file_its_model_came_from(tmp_path):
    plain_miniature(tmp_path)
    options = dict(corpus=str(world() / "words.txt"), num_negatives=20, cache=False, gamma=0.5)
    detector = InterNegDetector(tmp_path / "clip.safetensors", **options)
    detector.fit(CLASSES, world() / "id").save(tmp_path / "a.safetensors")
    with pytest.raises(StateError) as refused:
        InterNegDetector.load(tmp_path / "a.safetensors")
    for part in ("a.safetensors", str(tmp_path / "clip.safetensors"), "digest", "backbone="):
        assert part in str(refused.value)
    again = InterNegDetector.load(tmp_path / "a.safetensors", tmp_path / "clip.safetensors")
    assert again.class_names == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("change", ["heads", "quick_gelu"])
def test_a_state_of_another_architecture_with_the_same_weights_is_refused(tmp_path, change):
    plain_miniature(tmp_path)
    config = json.loads((tmp_path / "clip.json").read_text())
    options = dict(corpus=str(world() / "words.txt"), num_negatives=20, cache=False, gamma=0.5)
    detector = InterNegDetector(tmp_path / "clip.safetensors", **options)
    detector.fit(CLASSES, {k: sorted((world() / "id" / k).iterdir())[:3] for k in CLASSES})
    detector.save(tmp_path / "a.safetensors")
    if change == "heads":
        config["text_cfg"]["heads"] = 4
    else:
        config["quick_gelu"] = False
    (tmp_path / "clip.json").write_text(json.dumps(config))
    with pytest.raises(StateError, match="a.safetensors.*backbone weights: "):
        InterNegDetector.load(tmp_path / "a.safetensors", tmp_path / "clip.safetensors")


def test_a_state_of_another_precision_is_refused(tmp_path):
    fitted().save(tmp_path / "a.safetensors")
    other = load_backbone("miniature", precision="bf16")
    with pytest.raises(StateError, match="backbone precision: fp32 in the state, bf16 here"):
        InterNegDetector.load(tmp_path / "a.safetensors", other)


def test_id_images_of_equal_names_and_sizes_are_told_apart(tmp_path):
    """All bitmaps of one shape have one size in bytes."""
    folders = {}
    for name in ("one", "two"):
        for label, kind in enumerate(CLASSES):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for i in range(6):
                path = world() / "id" / kind / f"{i + 6 * (name == 'two'):02d}.png"
                Image.open(path).convert("RGB").save(folder / f"{label}{i}.bmp")
        folders[name] = tmp_path / name
    state = tmp_path / "a.safetensors"
    plain(gamma=0.5).fit(CLASSES, folders["one"]).save(state)
    assert plain().load(state, class_names=CLASSES, id_images=folders["one"]).gamma == 0.5
    with pytest.raises(StateError, match="content of the ID images"):
        plain().load(state, class_names=CLASSES, id_images=folders["two"])


def test_a_state_of_an_earlier_version_is_refused_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "VERSION", 1)
    fitted().save(tmp_path / "a.safetensors")
    monkeypatch.undo()
    with pytest.raises(StateError, match="is of version 1, and this program reads 3"):
        InterNegDetector.load(tmp_path / "a.safetensors")


def test_two_classes_never_get_the_images_of_one_folder(tmp_path):
    (tmp_path / "sea_lion").mkdir()
    shutil.copy(stream_files()[0], tmp_path / "sea_lion" / "a.png")
    with pytest.raises(DetectorError, match="'sea_lion' and 'sea lion' would both get"):
        plain().fit(["sea_lion", "sea lion"], tmp_path)


@pytest.mark.slow
def test_the_state_never_overwrites_the_lines(run, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "one")
    code, _, _, err = run(
        *(world() / "test", "--gamma", 0.5), "--out", tmp_path / "one", "--state", tmp_path / "link"
    )
    assert code == 1 and "are one file" in err and not (tmp_path / "one").exists()


@pytest.mark.slow
def test_another_tpr_than_the_states_is_refused(run, tmp_path):
    state, images = tmp_path / "s.safetensors", tmp_path / "one.txt"
    images.write_text(str(stream_files()[0]))
    kept = (images, "--out", tmp_path / "out.jsonl", "--state", state)
    assert run(*kept, "--tpr", 0.9)[0] == 0
    code, _, _, err = run(*kept, "--tpr", 0.8)
    assert code == 1 and "tpr: 0.9 in the state, 0.8 here" in err, err


# ---- bounds ------------------------------------------------------------------------------------

HUGE = (10**30, 10**400, 10**5000, 2**64)


@pytest.mark.parametrize("value", [*HUGE, float("inf"), 1e30], ids=range(6))
def test_numbers_beyond_64_bits_are_refused_with_one_message(value):
    for name in ("seed", "proxy_seed", "bank_capacity", "steps"):
        with pytest.raises(SettingsError, match=f"{name} is"):
            InterNegSettings(**{name: value})
    with pytest.raises(SettingsError, match="max_age is"):
        plain(protections={"max_age": value})
    for call in (
        lambda: plain(batch_size=value),
        lambda: plain(gamma=10**400),
        lambda: fitted().calibrate(stream_files(), tpr=value),
        lambda: fitted().explain(stream_files()[0], top=value),
    ):
        with pytest.raises(SettingsError):
            call()


def test_a_bank_of_a_thousand_million_is_refused_before_it_is_allocated():
    with pytest.raises(SettingsError, match="bank_capacity is 1000000000; it must be at most"):
        plain(bank_capacity=10**9)


@pytest.mark.parametrize("label", HUGE, ids=range(4))
def test_huge_labels_are_refused(label):
    with pytest.raises(DetectorError, match="class number"):
        plain().fit(CLASSES, [(stream_files()[0], label)])


def test_limits_on_reading_are_numbers():
    for values in ({"max_pixels": -1}, {"max_bytes": "many"}, {"exif": 1}, {"max_aspect": 10**400}):
        with pytest.raises(SettingsError, match=next(iter(values))):
            ImageLimits(**values)


def test_a_tiny_tensor_expanded_to_a_huge_one_is_refused_by_its_shape(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the values were looked at")

    monkeypatch.setattr(torch.Tensor, "float", never)
    monkeypatch.setattr(torch.Tensor, "cpu", never)
    half = torch.zeros(1, dtype=torch.float16)
    for shape in ((3, 40_000, 40_000), (10**9, 8, 8), (40_000, 40_000), (8,) * 5):
        with pytest.raises(ImageError, match="the tensor"):
            as_image(half.expand(*shape))
    with pytest.raises(ImageError, match="the array"):
        as_image(np.broadcast_to(np.zeros(1, np.float16), (40_000, 40_000, 3)))


def test_a_line_without_an_end_is_refused_before_it_fills_memory(tmp_path):
    endless = tmp_path / "endless.txt"
    endless.write_bytes(b"a.png\n" + b"x" * 200_000)
    with pytest.raises(DetectorError, match="line 2 of the paths is longer than 32768 bytes"):
        open_input(str(endless))


@pytest.mark.slow
def test_a_line_without_an_end_on_stdin_is_one_message(tmp_path, run):
    endless = tmp_path / "endless.txt"
    endless.write_bytes(b"a.png\n" + b"x" * 200_000)
    code, _, _, err = run("-", "--gamma", 0.5, stdin=endless)
    assert code == 1 and "line 2 of the paths" in err and "Traceback" not in err


def test_a_byte_order_mark_is_no_part_of_the_first_path(tmp_path):
    listed = tmp_path / "bom.txt"
    listed.write_bytes(b"\xef\xbb\xbfa.png\nb.png\n")
    assert list(open_input(str(listed))[0]) == ["a.png", "b.png"]


def test_protections_are_read_under_the_limits_of_yaml():
    with pytest.raises(SettingsError, match="--protect"):
        parse_protections("diversity=" + "[" * 400)


def test_one_image_is_explained_at_a_time():
    with pytest.raises(ImageError, match="takes one image, not 2"):
        fitted().explain(stream_files()[:2])
    with pytest.raises(SettingsError, match="top is 0"):
        fitted().explain(stream_files()[0], top=0)


def test_the_models_object_is_used_as_it_is():
    assert plain().backbone is miniature()

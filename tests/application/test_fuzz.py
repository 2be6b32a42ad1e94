"""Nonsense in, a message out: settings, YAML, image lists and state files."""

import contextlib
import copy
import functools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from drawn_world import fitted, miniature, plain, stream_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.inputs import checked_names
from openood_interneg.application.state import StateError, read_state, write_state
from openood_interneg.cli.options import plan_methods, read_config
from openood_interneg.data.any_image import as_image, open_image
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.image_lists import read_image_list
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.settings import (
    InternegError,
    InterNegSettings,
    SettingsError,
    as_mapping,
    from_mapping,
)

pytestmark = pytest.mark.slow

MORE = int(os.environ.get("INTERNEG_FUZZ", "1"))  # times as many examples
anyhow = dict(deadline=None, suppress_health_check=list(HealthCheck))
quick = settings(max_examples=150 * MORE, **anyhow)
slow = settings(max_examples=60 * MORE, **anyhow)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.one_of(st.sampled_from(list(as_mapping(InterNegSettings()))), st.text(max_size=12))


@functools.lru_cache
def scratch() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="interneg-fuzz-")
    scratch.keep = folder  # removed at exit
    return Path(folder.name)


def told(error: Exception) -> bool:
    """Whether an error is one for people, with something to say."""
    return isinstance(error, InternegError) and len(str(error)) > 10


@quick
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_settings_are_valid_or_refused(mapping):
    for cls in (InterNegSettings, ProtectionSettings):
        try:
            made = from_mapping(cls, mapping, "somewhere")
        except SettingsError as error:
            assert "somewhere" in str(error) or "unknown setting" in str(error)
        else:
            assert from_mapping(cls, as_mapping(made)) == made
    with contextlib.suppress(SettingsError):
        plan_methods("interneg", mapping)


@quick
@given(st.dictionaries(st.sampled_from(["beta", "steps", "seed", "tau"]), VALUES, max_size=3))
def test_a_detector_starts_with_sound_settings_only(mapping):
    try:
        detector = plain(**mapping)
    except SettingsError:
        return
    assert 0 <= detector.settings.beta <= 1 and detector.settings.steps >= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_postprocessor_block_that_is_a_list_is_refused(value, tmp_path):
    path = tmp_path / "list.yml"
    path.write_text(f"postprocessor: [{value}]\n")
    with pytest.raises(SettingsError, match="must map setting names"):
        read_config(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_whole_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(SettingsError, match="steps"):
        from_mapping(InterNegSettings, {"steps": value})


YAML_BITS = st.lists(
    st.sampled_from(
        [
            *("beta: ", "postprocessor:", "postprocessor_args:", "\n", "  ", "- ", "0.3", "1e-4"),
            *("{", "}", "[", "]", "&a ", "*a", "!!python/object/apply:os.system ", "'", '"', ": "),
            *(
                "null",
                "~",
                "dataset:",
                "ood_dataset:",
                "name: x",
                "test:",
                "%",
                "?",
                "|",
                "\t",
                "é",
            ),
        ]
    ),
    max_size=14,
).map("".join)


@quick
@given(st.one_of(YAML_BITS, st.text(max_size=60), VALUES.map(yaml.safe_dump)))
def test_yaml_is_read_or_refused(text):
    path = scratch() / "fuzz.yml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        values = read_config(path)
        assert isinstance(values, dict)
        from_mapping(InterNegSettings, values, str(path))
    except Exception as error:
        assert told(error), repr(error)
    try:
        load_benchmark(path)
    except Exception as error:
        assert told(error), repr(error)


BLOCK = st.dictionaries(
    st.sampled_from(["name", "train", "test", "class_names", "num_classes", "datasets", "x"]),
    st.one_of(
        VALUES,
        st.fixed_dictionaries({"data_dir": VALUES, "imglist_pth": VALUES}),
        st.just({"data_dir": ".", "imglist_pth": "list.txt"}),
        st.just(["a", "b"]),
    ),
)


@quick
@given(st.fixed_dictionaries({"dataset": BLOCK}, optional={"ood_dataset": VALUES}))
def test_benchmarks_are_read_or_refused(config):
    (scratch() / "list.txt").write_text("a.png 0\nb.png 1\n")
    path = scratch() / "bench.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        load_benchmark(path)
    except Exception as error:
        assert told(error), repr(error)


@quick
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_image_lists_are_read_or_refused(content):
    path = scratch() / "imglist.txt"
    path.write_bytes(content)
    try:
        images = read_image_list(path, scratch(), "fuzz")
    except Exception as error:
        assert told(error), repr(error)
    else:
        assert len(images.labels) == len(images.paths) and all(images.paths)


@quick
@given(st.lists(st.one_of(st.text(max_size=8), SCALARS), max_size=5))
def test_class_names_are_taken_or_refused(names):
    try:
        assert checked_names(names) == tuple(names)
    except Exception as error:
        assert told(error), repr(error)


@slow
@given(st.data())
def test_damaged_images_are_read_or_refused(data):
    content = bytearray(data.draw(st.sampled_from(photos())))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = scratch() / "fuzz.img"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert open_image(path).mode == "RGB"
    except ImageError as error:
        assert "fuzz.img" in str(error)


@functools.lru_cache
def photos() -> list[bytes]:
    import io

    image, out = as_image(stream_files()[0]), []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        out.append(buffer.getvalue())
    return out


@quick
@given(
    st.lists(st.integers(0, 9), max_size=5),
    st.sampled_from(["u1", "u2", "i4", "f2", "f4", "f8", "c8", "?", "O", "U3"]),
)
def test_arrays_are_images_or_refused(shape, kind):
    array = np.zeros(shape, kind)
    for value in (array, torch.from_numpy(array) if kind in ("u1", "i4", "f4", "f8") else array):
        with contextlib.suppress(ImageError):
            assert as_image(value).mode == "RGB"


# ---------------------------------------------------------------- states


@functools.lru_cache
def kept() -> tuple[bytes, np.ndarray]:
    """A state's bytes, and the scores that follow from it."""
    detector = fitted(steps=2)
    detector.score(stream_files()[:12])
    detector.save(scratch() / "kept.safetensors")
    content = (scratch() / "kept.safetensors").read_bytes()
    return content, detector.score(stream_files()[12:16])


def resumed(content: bytes) -> np.ndarray | None:
    """Scores after loading; None where the file was refused with a message."""
    path = scratch() / "fuzz.safetensors"
    path.write_bytes(content)
    try:
        detector = InterNegDetector.load(path, miniature())
    except StateError as error:
        assert "fuzz.safetensors" in str(error)
        return None
    return detector.score(stream_files()[12:16])


def test_the_whole_state_resumes():
    content, wanted = kept()
    np.testing.assert_array_equal(resumed(content), wanted)


@slow
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_state_is_refused(share):
    content, _ = kept()
    assert resumed(content[: int(share * len(content))]) is None


@settings(slow, max_examples=200)
@given(st.integers(0, 7), st.one_of(st.floats(0, 1), st.floats(0, 0.05)))
def test_a_flipped_bit_is_refused_or_without_effect(bit, share):
    content, wanted = kept()
    changed = bytearray(content)
    changed[min(int(share * len(content)), len(content) - 1)] ^= 1 << bit
    scores = resumed(bytes(changed))
    if scores is not None:  # in the padding of the header, say
        np.testing.assert_array_equal(scores, wanted)


@slow
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_header_of_nonsense_is_refused(junk, at):
    content, wanted = kept()
    scores = resumed(content[:at] + junk + content[at + len(junk) :])
    if scores is not None:
        np.testing.assert_array_equal(scores, wanted)


def places(tree, path=()):
    yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], (*path, key))


@slow
@given(st.data())
def test_a_well_formed_state_with_nonsense_is_refused_or_finite(data):
    """The digest is right, as that of a forger would be; types, shapes and values are not."""
    kept()
    tensors, meta = read_state(scratch() / "kept.safetensors")
    meta = copy.deepcopy(meta)
    path = data.draw(st.sampled_from([p for p in places(meta) if p]))
    at = functools.reduce(dict.__getitem__, path[:-1], meta)
    if data.draw(st.booleans()):
        at[path[-1]] = data.draw(
            st.one_of(
                st.none(), st.integers(-5, 10**12), st.text(max_size=5), st.just([]), st.just({})
            )
        )
    else:
        del at[path[-1]]
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensors[name] = data.draw(
            st.sampled_from(
                [
                    torch.zeros(0),
                    torch.full_like(tensors[name], -1),
                    tensors[name].double(),
                    tensors[name][..., None].clone(),
                    torch.cat([tensors[name].reshape(-1)] * 2),
                ]
            )
        )
    file = scratch() / "forged.safetensors"
    try:
        write_state(file, tensors, meta)
        scores = InterNegDetector.load(file, miniature()).score(stream_files()[12:14])
    except InternegError:
        return
    assert np.isfinite(scores).all()


def test_a_forged_nan_is_refused():
    kept()
    tensors, meta = read_state(scratch() / "kept.safetensors")
    tensors["memory.bank.features"][0, 0] = float("nan")
    write_state(scratch() / "nan.safetensors", tensors, meta)
    with pytest.raises(StateError, match=r"bank\.features.*NaN"):
        read_state(scratch() / "nan.safetensors")

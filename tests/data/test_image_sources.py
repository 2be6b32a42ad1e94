"""Every carrier of images gives its images and labels, or one message."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from carriers import files, picture, png, read, shade
from torch.utils.data import DataLoader, IterableDataset

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.image_entries import Deferred
from openood_interneg.data.image_sources import as_sources, carried, images_in
from openood_interneg.data.images import ImageError
from openood_interneg.settings import MissingPackageError


def pixels(*shades) -> torch.Tensor:
    return torch.stack([torch.full((3, 4, 6), s, dtype=torch.uint8) for s in shades])


@pytest.mark.parametrize(
    "one",
    [
        png(10),
        bytearray(png(10)),
        memoryview(png(10)),
        io.BytesIO(png(10)),
        {"bytes": png(10), "path": None},
        picture(10),
        pixels(10)[0],
        np.full((4, 6, 3), 10, np.uint8),
        Deferred(lambda most: png(10)),
        Deferred(lambda most: picture(10), "x"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_one_image_in_any_form(one):
    assert read(one) == [(10, None)]


def test_an_open_file_and_a_path(tmp_path):
    (path,) = files(tmp_path, [10])
    with open(path, "rb") as file:
        assert read([file, path, {"bytes": None, "path": str(path)}]) == [(10, None)] * 3


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ([(picture(10), "cat"), (png(20), 1)], [(10, "cat"), (20, 1)]),
        ([[png(10), np.int64(1)], (png(20), torch.tensor(0))], [(10, 1), (20, 0)]),
        ({"cat": [png(10), png(20)], "dog": png(30)}, [(10, "cat"), (20, "cat"), (30, "dog")]),
        ([{"image": png(10), "label": 1}, {"img": png(20)}], [(10, 1), (20, None)]),
        ({"data": pixels(10, 20), "label": torch.tensor([1, 0])}, [(10, 1), (20, 0)]),
        ((pixels(10, 20), torch.tensor([1, 0])), [(10, 1), (20, 0)]),
        ([pixels(10, 20), ["cat", "dog"]], [(10, "cat"), (20, "dog")]),
        ([(pixels(10, 20), [1, 0]), (pixels(30), [1])], [(10, 1), (20, 0), (30, 1)]),
        ([pixels(10, 20), pixels(30)], [(10, None), (20, None), (30, None)]),
        (pixels(10, 20), [(10, None), (20, None)]),
        ([{"__key__": "a", "jpg": png(10), "cls": b"1\n"}], [(10, "1")]),
        (pd.DataFrame({"image": [png(10)], "label": ["cat"]}), [(10, "cat")]),
    ],
)
def test_pairs_rows_batches_and_mappings(items, wanted):
    assert read(items) == wanted
    assert [shade(image) for image in as_sources(items)] == [s for s, _ in wanted]


def test_loaders_give_their_batches():
    images, labels = list(pixels(10, 20, 30)), [1, 0, 1]
    pairs = list(zip(images, labels, strict=True))
    assert read(DataLoader(pairs, batch_size=2)) == [(10, 1), (20, 0), (30, 1)]
    rows = [{"data": i, "label": n, "name": "x"} for i, n in pairs]  # as OpenOOD's loaders
    assert read(DataLoader(rows, batch_size=2)) == [(10, 1), (20, 0), (30, 1)]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(pairs)

    assert read(Stream()) == read(DataLoader(Stream(), batch_size=2))


def test_an_iterator_is_read_no_further_than_needed():
    seen = []

    def endless():
        while True:
            seen.append(len(seen))
            yield png(len(seen))

    found = images_in(endless())
    assert [shade(next(found)) for _ in range(3)] == [1, 2, 3] and len(seen) == 3


def test_paths_in_an_array_and_an_empty_sequence(tmp_path):
    paths = np.array([str(path) for path in files(tmp_path)])
    assert [s for s, _ in read(paths)] == [10, 20, 30]
    assert read([]) == []


def test_an_image_list_is_relative_to_its_folder(tmp_path):
    files(tmp_path / "cats", [10, 20])
    (tmp_path / "list.txt").write_text("cats/10.png 0\ncats/20.png 1\n")
    assert read(tmp_path / "list.txt") == [(10, 0), (20, 1)]
    (tmp_path / "bad.txt").write_text("cats/10.png\n")
    with pytest.raises(ImageError, match=r"bad\.txt, line 1: expected 'path label'"):
        carried(tmp_path / "bad.txt")
    with pytest.raises(ImageError, match="no image list"):
        carried(str(tmp_path / "none.txt"))


def test_what_operating_systems_leave_is_skipped_with_a_count(tmp_path):
    files(tmp_path / "a", [10])
    files(tmp_path / "b", [20])
    for name in ("a/Thumbs.db", "b/thumbs.db", ".DS_Store", "desktop.ini", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "10.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"5 files .*1 \.DS_Store, 1 Thumbs\.db, 1 __MACOSX"):
        assert [s for s, _ in read(tmp_path)] == [10, 20]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3.5, "not as float"),
        (None, "not as NoneType"),
        ((pixels(10, 20), [1]), "a batch of 2 images has 1 labels"),
        ([(pixels(10, 20), 1)], "a batch of 2 images has 1 labels"),
        ([{"image": [png(10)] * 3, "label": "cat"}], "a batch of 3 images has 1 labels"),
    ],
)
def test_what_carries_no_images_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        as_sources(data)


def failing(most):
    raise KeyError("broken data set")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (b"", "there are no bytes"),
        (b"no image", "in 8 bytes: it is no image in a format"),
        (png(10)[:40], "cannot read the image in 40 bytes"),
        (io.StringIO("text"), "open it for bytes"),
        (Deferred(failing, "item 7"), "cannot read item 7.*broken data set"),
        (Deferred(lambda most: 3), "not int"),
        ({"bytes": None, "path": "none.png"}, r"none\.png: No such file"),
        ({"a": 1}, "not dict"),
        ({"bytes": 0, "path": None}, "not dict"),
        ((1, 2, 3), "not tuple"),
    ],
)
def test_an_image_that_is_none_says_why(one, message):
    with pytest.raises(ImageError, match=message):
        as_image(one)


def test_limits_hold_for_bytes_and_open_files():
    for one in (png(10), io.BytesIO(png(10))):
        with pytest.raises(ImageError, match="more than 50 bytes"):
            as_image(one, ImageLimits(max_bytes=50))
    closed = io.BytesIO(png(10))
    closed.close()
    with pytest.raises(ImageError, match="cannot read the open file"):
        as_image(closed)


def test_heic_needs_its_package(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    image = picture(60).resize((64, 64))
    pillow_heif.from_pillow(image).save(buffer, format="HEIF")
    assert abs(shade(buffer.getvalue()) - 60) <= 2


def test_heic_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    for one in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="pip install pillow-heif"):
            as_image(one)
    assert issubclass(MissingPackageError, Exception)

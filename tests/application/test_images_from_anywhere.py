"""Images in lists, folders and data sets: who reads them, which formats, and which class."""

import os

import numpy as np
import pytest
from drawn_world import CLASSES, plain, stream_files, world
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from openood_interneg.application.inputs import labelled_images, unlabelled_images
from openood_interneg.data.any_image import open_image
from openood_interneg.data.classnames import ClassNameError, class_names
from openood_interneg.data.image_lists import BenchmarkError, ImageList, read_image_list
from openood_interneg.data.images import ImageError, read_rgb
from openood_interneg.detectors.base import DetectorError
from openood_interneg.negatives.corpus import load_corpus, source_digest
from openood_interneg.negatives.words import CorpusError

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
%%BeginPageSetup
%%EndPageSetup
showpage
%%EOF
"""


# Reading


@pytest.fixture
def no_ghostscript(monkeypatch):
    def reached(*args, **kwargs):
        raise AssertionError("Ghostscript was reached")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", reached)


@pytest.mark.parametrize("read", [read_rgb, open_image])
def test_no_reader_hands_postscript_to_another_program(read, tmp_path, no_ghostscript):
    path = tmp_path / "evil.jpg"
    path.write_bytes(EPS)
    with pytest.raises(ImageError, match=r"evil\.jpg: it is no image in a format that is read"):
        read(path)


def test_thumbnails_of_an_exhibit_are_read_like_everything_else(tmp_path, no_ghostscript):
    from openood_interneg.reproduce.exhibits import thumbnail

    (tmp_path / "evil.jpg").write_bytes(EPS)
    with pytest.raises(ImageError, match=r"evil\.jpg"):
        thumbnail(ImageList("x", tmp_path, ("evil.jpg",), np.array([-1])), 0)


@pytest.mark.parametrize("read", [read_rgb, open_image])
def test_the_reason_says_what_is_wrong_and_names_the_file_once(read, tmp_path):
    for name, content in (("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "text.png": "it is no image in a format that is read here (PNG, JPEG",
        "absent.png": "No such file or directory",
        "empty.png": "the file is empty",
        "pipe.png": "it is not a file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as refusal:
            read(tmp_path / name)
        text = str(refusal.value)
        assert f"{name}: {reason}" in text and text.count(name) == 1
        assert "directory: it" not in text and "file it" not in text


@pytest.mark.parametrize("kind", ["a pipe or a device", "a folder"])
def test_word_class_and_image_lists_are_regular_files(kind, tmp_path):
    path = tmp_path / "words.txt"
    os.mkdir(path) if kind == "a folder" else os.mkfifo(path)
    for read, error in (
        (load_corpus, CorpusError),
        (source_digest, CorpusError),
        (class_names, ClassNameError),
        (lambda path: read_image_list(path, tmp_path, "x"), BenchmarkError),
    ):
        with pytest.raises(error, match=f"is {kind}"):
            read(path)


def test_a_list_of_paths_in_utf16_is_refused_by_that_name(tmp_path, monkeypatch):
    from openood_interneg.cli.score_input import open_input

    (tmp_path / "paths.txt").write_bytes("a.png\n".encode("utf-16"))
    with pytest.raises(DetectorError, match="UTF-16 text; save it as UTF-8"):
        open_input(str(tmp_path / "paths.txt"))
    with open(tmp_path / "paths.txt") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(DetectorError, match="UTF-16 text; save it as UTF-8"):
            next(open_input("-")[0])


# Data sets that name their classes


class Folder:
    """What torchvision's ImageFolder is to its users."""

    def __init__(self, classes, images, numbers=True):
        self.classes = classes
        if numbers:
            self.class_to_idx = {name: i for i, name in enumerate(classes)}
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def files(kind, count=6):
    return sorted((world() / "id" / kind).iterdir())[:count]


def of_classes(order, numbers=True):
    images = [(str(file), i) for i, kind in enumerate(order) for file in files(kind)]
    return Folder(list(order), images, numbers)


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("wrap", ["plain", "subset", "concatenated", "subset of both"])
def test_labels_of_a_data_set_are_matched_by_its_class_names(wrap, numbers):
    data = of_classes(sorted(CLASSES, reverse=True), numbers)
    data = {
        "plain": lambda: data,
        "subset": lambda: Subset(data, range(len(data))),
        "concatenated": lambda: ConcatDataset([data]),
        "subset of both": lambda: Subset(ConcatDataset([data]), range(len(data))),
    }[wrap]()
    sources, labels = labelled_images(data, CLASSES)
    for source, label in zip(sources, labels, strict=True):
        assert CLASSES[label] in source
    assert [image.read(0) for image in unlabelled_images(data)] == sources


def test_proxies_of_a_folder_do_not_depend_on_the_order_of_the_names():
    ours = plain(gamma=0.5).fit(CLASSES, {kind: files(kind) for kind in CLASSES})
    theirs = plain(gamma=0.5).fit(CLASSES, of_classes(sorted(CLASSES, reverse=True)))
    assert (ours.space.proxies * theirs.space.proxies).sum(dim=1).min() > 1 - 1e-5
    images = stream_files()[:4]
    np.testing.assert_allclose(ours.score(images), theirs.score(images), atol=1e-5)


def test_case_spaces_and_several_names_of_a_class_match_as_for_subfolders():
    image = Image.new("RGB", (4, 4))
    several = Folder([("tench", "Tinca tinca"), ("great_white shark",)], [(image, 1), (image, 0)])
    several.class_to_idx = {"tench": 0, "Tinca tinca": 0, "great_white shark": 1}
    assert labelled_images(several, ["Tench", "Great white shark"])[1].tolist() == [1, 0]
    del several.class_to_idx
    assert labelled_images(several, ["great white shark", "tinca tinca"])[1].tolist() == [0, 1]


def test_a_data_set_with_other_classes_is_refused():
    image = Image.new("RGB", (4, 4))
    with pytest.raises(DetectorError, match=r"class names: class 1 \(n01443537\)"):
        labelled_images(Folder(["star", "n01443537"], [(image, 0), (image, 1)]), ["star", "fish"])
    one, other = Folder(["a", "b"], [(image, 0)]), Folder(["b", "a"], [(image, 0)])
    with pytest.raises(ImageError, match="number other classes alike"):
        labelled_images(ConcatDataset([one, other]), ["a", "b"])


def test_pairs_with_numbers_are_taken_by_place():
    image = Image.new("RGB", (4, 4))
    assert labelled_images([(image, 1), (image, "a")], ["a", "b"])[1].tolist() == [1, 0]

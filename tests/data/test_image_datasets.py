"""Data sets of torch, torchvision and Hugging Face."""

import numpy as np
import pytest
from carriers import files, picture, png, read, shade
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import CIFAR10, ImageFolder

from openood_interneg.data.image_sources import as_sources, carried
from openood_interneg.data.images import ImageError


class Pairs(Dataset):
    """Pairs that count how often they are read."""

    def __init__(self, pairs, **more):
        self.pairs, self.reads = pairs, 0
        self.__dict__ |= more

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, place):
        self.reads += 1
        return self.pairs[place]


PAIRS = [(picture(10), 1), (picture(20), 0), (picture(30), 1)]


def test_an_image_folder_and_its_subset(tmp_path):
    files(tmp_path / "dog", [10, 20])
    files(tmp_path / "cat", [30])
    data = ImageFolder(tmp_path)
    assert read(data) == [(30, 0), (10, 1), (20, 1)]
    assert carried(data, labelled=True).names == {0: ("cat",), 1: ("dog",)}
    part = Subset(data, np.array([2, 0]))
    assert read(part) == [(20, 1), (30, 0)]
    assert carried(part, labelled=True).names == {0: ("cat",), 1: ("dog",)}


def test_targets_spare_reading_the_images():
    told = Pairs(PAIRS, targets=[1, 0, 1])
    entries = list(carried(ConcatDataset([told, Subset(told, [1])]), labelled=True).entries)
    assert [e.label for e in entries] == [1, 0, 1, 0] and told.reads == 0
    assert [shade(e.image) for e in entries] == [10, 20, 30, 20] and told.reads == 4

    silent = Pairs(PAIRS)
    assert [e.label for e in carried(silent, labelled=True).entries] == [1, 0, 1]
    silent.reads = 0
    assert len(as_sources(silent)) == 3 and silent.reads == 0


@pytest.mark.parametrize(
    "targets",
    [[[1, 2], [0, 1], [1, 1]], [0.5, 1.0, 2.0], [1, 0], "101", None],
    ids=["several", "numbers with fractions", "too few", "text", "none"],
)
def test_targets_that_are_no_classes_are_left_alone(targets):
    data = Pairs(PAIRS, targets=targets)
    assert read(data) == [(10, 1), (20, 0), (30, 1)]
    changed = Pairs(PAIRS, targets=[0, 0, 0], target_transform=lambda label: label)
    assert read(changed) == [(10, 1), (20, 0), (30, 1)]


def test_items_that_are_no_pairs_are_named():
    with pytest.raises(ImageError, match=r"item 0 of the data set is no \(image, label\) pair"):
        read(Pairs([(picture(10), 1, 2)]))
    images = as_sources(Pairs([(picture(10), 1, 2)]))
    with pytest.raises(ImageError, match="item 0 of the data set"):
        shade(images[0])


def test_a_torchvision_set_in_memory():
    data = CIFAR10.__new__(CIFAR10)
    data.data = np.full((2, 4, 6, 3), 10, np.uint8)
    data.targets, data.transform, data.target_transform = [3, 1], None, None
    data.class_to_idx = {"cat": 3, "automobile": 1}
    assert read(data) == [(10, 3), (10, 1)]
    assert carried(data, labelled=True).names == {3: ("cat",), 1: ("automobile",)}


# Hugging Face


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def animals(hf):
    features = hf.Features(
        {"id": hf.Value("int64"), "pic": hf.Image(), "kind": hf.ClassLabel(names=["dog", "cat"])}
    )
    rows = {
        "id": [1, 2, 3],
        "pic": [{"bytes": png(s), "path": None} for s in (10, 20, 30)],
        "kind": [1, 0, 1],
    }
    return hf.Dataset.from_dict(rows, features=features)


def test_images_by_their_type_and_labels_by_their_names(animals):
    wanted = [(10, 1), (20, 0), (30, 1)]
    assert read(animals) == wanted
    assert read(animals.with_format("torch")) == wanted
    assert read(animals.select([2, 0])) == [(30, 1), (10, 1)]
    streamed = animals.to_iterable_dataset()
    assert read(streamed) == wanted
    for data in (animals, streamed):
        assert carried(data, labelled=True).names == {0: ("dog",), 1: ("cat",)}
        assert [shade(image) for image in as_sources(data)] == [10, 20, 30]


def test_text_labels_and_files(hf, tmp_path):
    paths = [str(path) for path in files(tmp_path, [10, 20])]
    data = hf.Dataset.from_dict({"image": paths, "label": ["cat", "dog"]})
    data = data.cast_column("image", hf.Image())
    assert read(data) == [(10, "cat"), (20, "dog")]
    assert carried(data, labelled=True).names is None


def test_hugging_face_sets_that_need_a_choice(hf, animals):
    with pytest.raises(ImageError, match="has the splits train, test; give one"):
        carried(hf.DatasetDict(train=animals, test=animals))
    with pytest.raises(ImageError, match=r"0 image columns \(id, kind\)"):
        carried(animals.remove_columns("pic"))
    twice = hf.concatenate_datasets([animals, animals.rename_columns(
        {"pic": "other", "kind": "coarse", "id": "number"})], axis=1)  # fmt: skip
    with pytest.raises(ImageError, match=r"2 image columns \(pic, other\)"):
        carried(twice)
    with pytest.raises(ImageError, match=r"2 label columns \(kind, coarse\)"):
        carried(twice.remove_columns("other"), labelled=True)
    assert len(as_sources(twice.remove_columns("other"))) == 3

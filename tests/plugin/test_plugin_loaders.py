"""OpenOOD's loaders seen as labelled images."""

import pytest
import torch
from drawn_images import Images, loader
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from openood_interneg.plugin.loaders import LoaderImages, dataset_labels, ids_of


def test_labels_without_reading_images():
    images = Images(12, "x")
    assert dataset_labels(images).tolist() == [i % 10 for i in range(12)]
    assert dataset_labels(Subset(images, [3, 11])).tolist() == [3, 1]
    assert dataset_labels(ConcatDataset([images, images])).shape == (24,)
    assert images.reads == []
    assert dataset_labels(TensorDataset(torch.zeros(3, 1), torch.tensor([2, 0, 1]))).tolist() == [
        2,
        0,
        1,
    ]
    plain = [(torch.zeros(3), 4), (torch.zeros(3), 5)]
    assert dataset_labels(plain).tolist() == [4, 5]
    targets = TensorDataset(torch.zeros(2, 1))
    targets.targets = [1, 0]
    assert dataset_labels(targets).tolist() == [1, 0]


def test_random_training_images_are_warned_of(net):
    from torchvision import transforms

    images = Images(10, "train")
    images.preprocessor = transforms.Compose([transforms.RandomHorizontalFlip()])
    with pytest.warns(UserWarning, match="augmented at random"):
        LoaderImages(loader(images), net)


def test_ids_are_names_or_numbers():
    batch = {"data": torch.zeros(2, 3), "image_name": ["a", "b"]}
    assert torch.equal(ids_of(batch, 0), ids_of(batch, 5))
    unnamed = {"data": torch.zeros(2, 3)}
    assert ids_of(unnamed, 0)[1] == ids_of(unnamed, 1)[0]

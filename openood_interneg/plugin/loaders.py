"""OpenOOD's data loaders, seen as labelled images of which only some are read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from openood_interneg.data.encode import Views, view_maker
from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.image_lists import ImageList, check_images
from openood_interneg.negatives.proxies import sample_id_images
from openood_interneg.plugin.network import ClipZeroShot
from openood_interneg.settings import IdImageSettings, InternegError
from openood_interneg.vlm.preprocess import Preprocess


class LoaderError(InternegError, ValueError):
    """A data loader that does not give what a method needs."""


class LoaderImages:
    """ID images behind a loader: labels from the list, pixels only of the images asked for.

    The images go through the data set's own transform, as in everything of OpenOOD's.

    Args:
        loader: gives batches with `data` and `label`.
        clip: encodes them.
    """

    def __init__(self, loader: DataLoader, clip: ClipZeroShot):
        self.loader, self.clip = loader, clip
        self.labels = dataset_labels(loader.dataset)
        if _is_random(loader.dataset):
            warnings.warn(
                "the ID training images are augmented at random (preprocessor 'base' of "
                "OpenOOD's training split), so image proxies differ from run to run; use "
                "configs/preprocessors/clip.yml",
                stacklevel=2,
            )

    def look_for_files(self, settings: IdImageSettings) -> None:
        """Looks for the images that the proxies will be made of, where their files are known.

        Raises:
            BenchmarkError: naming those that are not there. ProxyError: a class without images.
        """
        listed = listed_images(self.loader.dataset)
        if listed is None:
            return
        with warnings.catch_warnings():  # what it warns of, it warns of again when it is used
            warnings.simplefilter("ignore")
            chosen = sample_id_images(self.labels, self.clip.class_names, settings)
        check_images(listed.subset(chosen))

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) float32 unit image features."""
        loader = like(self.loader, Subset(self.loader.dataset, np.asarray(indices).tolist()))
        return torch.cat([self.clip.clip.encode_image(pixels(batch)) for batch in loader])


def like(loader: DataLoader, dataset: Dataset, batch_size: int | None = None) -> DataLoader:
    """A loader of another data set, in its order, with the other options of `loader`."""
    return DataLoader(
        dataset,
        batch_size=batch_size or loader.batch_size or 128,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )


def pixels(batch: Any) -> Tensor:
    """Images (or features) of a batch: of OpenOOD's dict, or the first of a tuple."""
    if isinstance(batch, Mapping):
        return batch["data"]
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def views_of_pixels(images: Tensor, ids: Tensor, preprocess: Preprocess, kind: Views) -> Tensor:
    """Preprocessed images and their corrupted copies, (V, B, 3, H, W), the images first.

    A loader hands over preprocessed pixels, so the copies are made from the resized and cropped
    image; `interneg eval` makes them from the file.

    Args:
        images: (B, 3, H, W), normalised as `preprocess` does it.
        ids: (B,) int64.
        preprocess: the backbone's own.
        kind: which views.
    """
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    maker = view_maker(kind, preprocess)
    transform = preprocess.transform()
    made = []
    for image, image_id in zip(images.cpu(), ids.tolist(), strict=True):
        levels = ((image * std + mean) * 255).round().clamp(0, 255)  # exact: they were bytes once
        original = to_pil_image(levels.to(torch.uint8))
        made.append(torch.stack([transform(view) for view in maker(original, image_id)]))
    return torch.stack(made).transpose(0, 1)


def labels_of(batch: Any) -> Tensor:
    """Labels (B,) of a batch, int64."""
    labels = batch["label"] if isinstance(batch, Mapping) else batch[1]
    return torch.as_tensor(labels)


def ids_of(batch: Any, begin: int) -> Tensor:
    """Ids (B,) of the images of a batch: by name, or else by their number in the stream.

    Args:
        batch: of a loader.
        begin: how many images of the stream came before.
    """
    names = batch.get("image_name") if isinstance(batch, Mapping) else None
    if names is None:
        names = [f"#{begin + i}" for i in range(len(pixels(batch)))]
    return image_ids(names)


def dataset_labels(dataset: Any) -> np.ndarray:
    """Labels (n,) int64 of a data set, without reading images where that is possible.

    Knows OpenOOD's image lists, torchvision's `targets`, `labels` and `samples`, tensors,
    subsets and concatenations of those; anything else is read once, with a progress bar.
    """
    found = listed_labels(dataset)
    if found is None:
        bar = tqdm(range(len(dataset)), desc="reading the labels, image by image", disable=None)
        found = [_label(dataset[i]) for i in bar]
    return np.asarray(found, dtype=np.int64)


def listed_labels(dataset: Any) -> Sequence[int] | np.ndarray | None:
    """Labels of a data set as far as it shows them without reading an image; else None."""
    if isinstance(dataset, Subset):
        inner = listed_labels(dataset.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(dataset.indices, dtype=int)]
    if isinstance(dataset, ConcatDataset):
        parts = [listed_labels(part) for part in dataset.datasets]
        known = [np.asarray(part) for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    lines = getattr(dataset, "imglist", None)
    if lines is not None:
        ends = [line.strip("\n").partition(" ")[2] for line in lines[: len(dataset)]]
        try:
            return [int(end) for end in ends]
        except ValueError:  # lines with a dictionary in place of a label
            return None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            return np.asarray(values)
    samples = getattr(dataset, "samples", None)
    if samples is not None and len(samples) == len(dataset):
        return [sample[1] for sample in samples]
    tensors = getattr(dataset, "tensors", None)
    return None if tensors is None or len(tensors) < 2 else tensors[1].numpy()


def listed_images(dataset: Dataset) -> ImageList | None:
    """The files behind OpenOOD's data set of an image list; None for any other."""
    lines, folder = getattr(dataset, "imglist", None), getattr(dataset, "data_dir", None)
    labels = listed_labels(dataset)
    if lines is None or folder is None or labels is None:
        return None
    paths = tuple(line.strip("\n").partition(" ")[0] for line in lines[: len(labels)])
    labels = np.asarray(labels, dtype=np.int64)
    return ImageList(str(getattr(dataset, "name", "images")), Path(folder), paths, labels)


def warn_foreign_preprocessing(clip: ClipZeroShot, loaders: Mapping[str, Any] | None) -> None:
    """Warns of images that were normalised for another network."""
    own = clip.clip.preprocess
    for loader in (loaders or {}).values():
        normalize = last_normalize(getattr(loader, "dataset", None))
        if normalize is None:
            continue
        theirs = [tuple(map(float, values)) for values in (normalize.mean, normalize.std)]
        if not np.allclose(theirs, [own.mean, own.std], atol=1e-3):
            warnings.warn(
                f"the images are normalised with mean {theirs[0]} and deviation {theirs[1]}, and "
                f"this network was trained with {own.mean} and {own.std}: pass "
                "preprocessor=net.clip.preprocess.transform() (main.py: "
                "configs/preprocessors/clip.yml)",
                stacklevel=3,
            )
            return


def _label(sample: Any) -> int:
    return int(sample["label"] if isinstance(sample, Mapping) else sample[1])


def _steps(dataset: Dataset | None) -> Sequence[Any]:
    """The transforms that a data set's images go through, as far as it shows them."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    transform = getattr(dataset, "preprocessor", None) or getattr(dataset, "transform", None)
    transform = getattr(transform, "transform", transform)
    return getattr(transform, "transforms", ())


def _is_random(dataset: Dataset) -> bool:
    return any(type(step).__name__.startswith("Random") for step in _steps(dataset))


def last_normalize(dataset: Dataset | None) -> Any | None:
    """The transform that normalises a data set's images; None where it shows none."""
    named = (step for step in reversed(_steps(dataset)) if type(step).__name__ == "Normalize")
    return next(named, None)

"""Data sets of torch, torchvision and Hugging Face: their images and the names of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from openood_interneg.data.image_entries import (
    Carried,
    Deferred,
    Entry,
    label_key,
    of_item,
    plain_label,
)
from openood_interneg.data.images import ImageError

Names = dict[int, tuple[str, ...]]


# ---- torch and torchvision -------------------------------------------------------------------


def is_dataset(data: Any) -> bool:
    """Whether items of a data set are asked for by their places."""
    if isinstance(data, IterableDataset) or not hasattr(type(data), "__getitem__"):
        return False
    if isinstance(data, (Mapping, list, tuple, str, bytes)) or not hasattr(type(data), "__len__"):
        return False
    return isinstance(data, Dataset) or any(
        hasattr(data, name) for name in ("classes", "class_to_idx", "targets")
    )


def of_dataset(data: Any, labelled: bool) -> Carried:
    """Entries of a data set with `__getitem__` and `__len__`; images are read when needed.

    Labels are its `targets`; without them every item is read once for its label.
    """
    return Carried(_dataset_entries(data, labelled), label_names(data) if labelled else None)


def label_names(data: Any) -> Names | None:
    """Names of each label number of a data set that tells them (`class_to_idx`, `classes`), also
    through torch's `Subset` and `ConcatDataset` and other wrappers; None where it does not.

    Raises:
        ImageError: parts of a concatenation that number other classes alike.
    """
    parts = getattr(data, "datasets", None)
    if isinstance(parts, (list, tuple)):
        told = [label_names(part) for part in parts]
        if all(part is None for part in told):
            return None
        if any(part != told[0] for part in told):
            raise ImageError(
                "the concatenated data sets number other classes alike, so their labels cannot be "
                "told apart; give (image, class name) pairs"
            )
        return told[0]
    classes, numbers = getattr(data, "classes", None), getattr(data, "class_to_idx", None)
    pairs: list[tuple[Any, Any]] = []
    if isinstance(numbers, Mapping):
        pairs = [(number, name) for name, number in numbers.items()]
    elif isinstance(classes, (list, tuple)):
        pairs = list(enumerate(classes))
    out: Names = {}
    for number, name in pairs:  # ImageNet's classes have several names each
        several = name if isinstance(name, (list, tuple)) else (name,)
        if isinstance(number, int) and all(isinstance(one, str) for one in several):
            out[number] = (*out.get(number, ()), *several)
    if out:
        return out
    inner = getattr(data, "dataset", None)
    return None if inner is None or inner is data else label_names(inner)


def _dataset_entries(data: Any, labelled: bool) -> Iterator[Entry]:
    targets = _targets(data) if labelled else None
    for place in range(len(data)):
        later = Deferred(partial(_item_image, data, place))
        if not labelled:
            yield Entry(later)
        elif targets is not None:
            yield Entry(later, targets[place])
        else:
            entry = _item(data, place)
            keep = isinstance(entry.image, str) or hasattr(entry.image, "__fspath__")
            yield entry if keep else Entry(later, entry.label)


def _targets(data: Any) -> list[Any] | None:
    """Labels that a data set tells without reading its images; None where it does not."""
    parts = getattr(data, "datasets", None)
    if isinstance(parts, (list, tuple)):
        told = [_targets(part) for part in parts]
        return None if None in told else [label for part in told for label in part or ()]
    inner, indices = getattr(data, "dataset", None), getattr(data, "indices", None)
    if inner is not None and isinstance(indices, Iterable):
        found = _targets(inner)
        return None if found is None else [found[int(index)] for index in indices]
    own = getattr(data, "targets", None)
    if not isinstance(own, (list, tuple, Tensor, np.ndarray)) or len(own) != len(data):
        return None
    if getattr(data, "target_transform", None) is not None:
        return None
    labels = own if isinstance(own, (list, tuple)) else own.tolist()
    plain = [plain_label(label) for label in labels]
    return plain if all(isinstance(label, (int, str)) for label in plain) else None


def _item(data: Any, place: int) -> Entry:
    entries = list(of_item(data[place]))
    if len(entries) != 1 or isinstance(entries[0].image, (tuple, list)):
        raise ImageError(
            f"item {place} of the data set is no (image, label) pair; give (image, class) pairs, "
            "a mapping class -> images, or a folder with one subfolder per class"
        )
    return entries[0]


def _item_image(data: Any, place: int, max_bytes: int) -> Any:
    return _item(data, place).image


# ---- Hugging Face ----------------------------------------------------------------------------


def is_hugging_face(data: Any) -> bool:
    """Whether this is a data set of the package `datasets`, which need not be imported."""
    theirs = any(kind.__module__.partition(".")[0] == "datasets" for kind in type(data).__mro__)
    return theirs and hasattr(data, "cast_column")  # somebody's own module may be called datasets


def of_hugging_face(data: Any, labelled: bool) -> Carried:
    """Entries of a `Dataset` or an `IterableDataset`.

    The image column is the one whose type is an image; its files are decoded here, under the
    limits, whatever format or transform was set. The label column is a `ClassLabel`, whose names
    go with it, or one that is called like a label.

    Raises:
        ImageError: several splits, no image column or several, several label columns.
    """
    if isinstance(data, Mapping):
        raise ImageError(f"the data set has the splits {', '.join(data)}; give one: data[split]")
    if data.features is None:
        data = data._resolve_features() if hasattr(data, "_resolve_features") else data
    features = data.features or {}
    images = [name for name, f in features.items() if type(f).__name__ == "Image"]
    if len(images) > 1:
        images = [name for name in images if name in ("image", "img")] or images
    if len(images) != 1:
        raise ImageError(
            f"the data set has {len(images)} image columns ({', '.join(images or features)}); "
            "there must be one: cast_column(name, datasets.Image()) makes one, remove_columns "
            "takes others out"
        )
    (image,) = images
    label = _label_column(features) if labelled else None
    names = getattr(features[label], "names", None) if label is not None else None
    numbered = None if names is None else {n: (str(name),) for n, name in enumerate(names)}
    plain = data.with_format(None)
    plain = plain.cast_column(image, type(features[image])(decode=False))
    if not hasattr(type(data), "__len__"):
        return Carried(_streamed(plain, image, label), numbered)
    return Carried(_indexed(plain, image, label), numbered)


def _label_column(features: Mapping[str, Any]) -> str | None:
    labels = [name for name, f in features.items() if type(f).__name__ == "ClassLabel"]
    if len(labels) > 1:
        labels = [name for name in labels if name == "label"] or labels
    if len(labels) > 1:
        raise ImageError(
            f"the data set has {len(labels)} label columns ({', '.join(labels)}); take the others "
            "out with remove_columns"
        )
    return labels[0] if labels else label_key(features)


def _streamed(data: Any, image: str, label: str | None) -> Iterator[Entry]:
    for row in data:
        yield Entry(row[image], None if label is None else row[label])


def _indexed(data: Any, image: str, label: str | None) -> Iterator[Entry]:
    labels = None if label is None else list(data[label])
    column = data.select_columns([image])

    def read(place: int, max_bytes: int) -> Any:
        return column[place][image]

    for place in range(len(data)):
        yield Entry(Deferred(partial(read, place)), None if labels is None else labels[place])

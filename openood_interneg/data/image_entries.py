"""One image out of whatever carried it: the image, or where to read it, and its label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from openood_interneg.data.images import ImageError, image_suffixes

# Names that data sets, tables and loaders give the same two things; earlier ones are preferred.
IMAGE_KEYS = ("image", "img", "images", "data", "pixel_values", "picture")
LABEL_KEYS = (
    *("class_name", "classname", "label_name", "class", "label", "labels", "category"),
    *("target", "targets", "cls"),
)


class Entry(NamedTuple):
    """An image and its label.

    Attributes:
        image: what `as_image` takes.
        label: a name or a number; None where the carrier has none.
    """

    image: Any
    label: Any = None


@dataclass(frozen=True, eq=False)
class Deferred:
    """An image that is read when it is needed, so that a large data set is never in memory.

    Attributes:
        read: called with the largest number of bytes that it may bring; gives the image.
        name: what messages and results call it; empty for images without a name.
        size: of a file, whose bytes `read` gives; None for images that are no files.
    """

    read: Callable[[int], Any]
    name: str = ""
    size: int | None = None


def is_undecoded(value: Any) -> bool:
    """Whether a value is an image as `datasets` holds it undecoded: its bytes, or its path."""
    if not isinstance(value, Mapping) or set(value) != {"bytes", "path"}:
        return False
    data, path = value["bytes"], value["path"]
    if path is None:
        return isinstance(data, bytes)
    return isinstance(path, str) and (data is None or isinstance(data, bytes))


def of_item(item: Any) -> Iterator[Entry]:
    """The entries of what a data set or a loader gives: an image, a pair, a row, or a batch.

    Raises:
        ImageError: a batch with other than one label per image.
    """
    if isinstance(item, Mapping) and not is_undecoded(item):
        yield from _of_row(item)
    elif isinstance(item, Entry):
        yield item
    elif isinstance(item, (tuple, list)) and len(item) == 2 and _is_label(item[1]):
        yield from _of_pair(item[0], item[1])
    elif is_batch(item):
        yield from (Entry(image) for image in item)
    else:
        yield Entry(item)


def is_batch(value: Any) -> bool:
    """Whether a value is an array or a tensor of several images."""
    return isinstance(value, (np.ndarray, Tensor)) and value.ndim == 4


def image_key(row: Mapping[Any, Any]) -> Any:
    """Key of the image in a row: its name, or in webdataset's rows its file ending; or None."""
    for key in IMAGE_KEYS:
        if key in row:
            return key
    texts = (key for key in row if isinstance(key, str))
    return next((text for text in texts if ends_like_image(text)), None)


def ends_like_image(name: str) -> bool:
    """Whether a name, or an ending alone, is that of an image file: `a.png`, `png`."""
    return f".{name.lower().rpartition('.')[2]}" in image_suffixes()


def label_key(names: Any) -> Any:
    """The name among column names or keys that says the label; or None."""
    lower = {name.lower(): name for name in names if isinstance(name, str)}
    return next((lower[key] for key in LABEL_KEYS if key in lower), None)


def plain_label(label: Any) -> Any:
    """A label as Python has it: a number out of its tensor, a text out of its bytes."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace").strip()
    if isinstance(label, np.generic) or (
        isinstance(label, (Tensor, np.ndarray)) and label.reshape(-1).shape[0] == 1
    ):
        return label.item()
    return label


def _is_label(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim <= 1
    if isinstance(value, (list, tuple)):
        return all(isinstance(one, (str, int, np.integer)) for one in value)
    return value is None or isinstance(value, (str, bytes, int, np.generic))


def _of_pair(images: Any, labels: Any) -> Iterator[Entry]:
    several = is_batch(images) or isinstance(images, (list, tuple))
    if not several:
        yield Entry(images, plain_label(labels))
        return
    if labels is None:
        labels = [None] * len(images)
    elif not isinstance(labels, (list, tuple)) and getattr(labels, "ndim", 0) == 0:
        labels = [labels]
    found = list(labels)
    if len(found) != len(images):
        raise ImageError(f"a batch of {len(images)} images has {len(found)} labels")
    for image, label in zip(images, found, strict=True):
        yield Entry(image, plain_label(label))


def _of_row(row: Mapping[Any, Any]) -> Iterator[Entry]:
    key = image_key(row)
    if key is None:
        yield Entry(row)  # as_image says what is wrong with it
        return
    at = label_key(row)
    yield from _of_pair(row[key], None if at is None else row[at])


@dataclass(frozen=True)
class Carried:
    """What a carrier of images holds.

    Attributes:
        entries: its images with their labels, in order; an iterator where it can be read but once.
        names: what its label numbers stand for, each by one or several names; None where numbers
            are places among the class names, or labels are names.
    """

    entries: Iterable[Entry]
    names: Mapping[int, tuple[str, ...]] | None = None

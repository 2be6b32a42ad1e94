"""The one reader of whatever carries images.

Files, folders, lists, tables and archives, data sets and loaders, pairs, rows, batches and single
images all become entries: an image, or where to read it, with its label.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from openood_interneg.data.image_archives import shards, tar_entries
from openood_interneg.data.image_datasets import (
    is_dataset,
    is_hugging_face,
    label_names,
    of_dataset,
    of_hugging_face,
)
from openood_interneg.data.image_entries import (
    Carried,
    Deferred,
    Entry,
    image_key,
    is_batch,
    is_undecoded,
    of_item,
)
from openood_interneg.data.image_folders import image_files
from openood_interneg.data.image_lists import BenchmarkError, read_image_list
from openood_interneg.data.image_tables import TABLES, frame_entries, read_image_table
from openood_interneg.data.image_urls import is_url
from openood_interneg.data.images import ImageError

LISTS = TABLES | {".txt", ".tar"}  # endings of files that hold or name several images


def carried(data: Any, *, labelled: bool = False) -> Carried:
    """Images, and their labels if asked for, out of whatever carries them.

    Args:
        data: one image in any form of `as_image`; a folder, an image list (.txt), a table (.csv,
            .tsv, .parquet, a data frame), webdataset's tar archives (also `x-{00..12}.tar`); a
            data set of torch, torchvision or Hugging Face, a `DataLoader`; a batch, a row; a
            mapping class -> images; an iterable of images, (image, label) pairs, rows or batches.
        labelled: whether labels are needed; without it no item of a data set is read for them.

    Raises:
        ImageError: nothing that carries images, an empty folder, list or table, a file that cannot
            be read. What is read lazily raises while it is iterated.
    """
    if isinstance(data, (str, os.PathLike)):
        return Carried([Entry(data)]) if is_url(data) else _of_path(os.fspath(data))
    if is_image(data):
        return Carried([Entry(data)])
    if is_hugging_face(data):
        return of_hugging_face(data, labelled)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return Carried(frame_entries(data, "the data frame"))  # pandas is not imported for it
    if isinstance(data, Mapping):
        if image_key(data) is not None:
            return Carried(of_item(data))
        return Carried(_of_classes(data))
    if isinstance(data, DataLoader):
        return Carried(_flat(data), label_names(data.dataset) if labelled else None)
    if is_dataset(data):
        return of_dataset(data, labelled)
    if _is_pair_of_batches(data):
        return Carried(of_item(data))
    if isinstance(data, (np.ndarray, Tensor)):
        return Carried([Entry(image) for image in data])
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise ImageError(
            "images come as a folder, a table, a data set, or a sequence of paths, bytes, PIL "
            f"images, arrays or tensors, not as {type(data).__name__}"
        )
    return Carried(_flat(data), label_names(data) if labelled else None)


def images_in(data: Any) -> Iterator[Any]:
    """Images one by one, without labels; see `carried`. Read no further than needed."""
    return (entry.image for entry in carried(data).entries)


def as_sources(data: Any) -> list[Any]:
    """All images without labels; see `carried`."""
    return list(images_in(data))


def is_image(data: Any) -> bool:
    """Whether a value that is no path is one image."""
    if isinstance(data, (np.ndarray, Tensor)):
        return data.ndim != 4 and not (data.ndim == 1 and _holds_objects(data))
    if isinstance(data, (Image.Image, bytes, bytearray, memoryview, Deferred)):
        return True
    return is_undecoded(data) or (hasattr(data, "read") and not isinstance(data, type))


def is_path(data: Any) -> bool:
    """Whether a value is the path of a file or a folder, and not a URL."""
    return isinstance(data, (str, os.PathLike)) and not is_url(data)


def _holds_objects(data: np.ndarray | Tensor) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.kind in "OU"


def _is_pair_of_batches(data: Any) -> bool:
    """Whether this is one batch as a loader gives it: images (n, ...) and their n labels."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and is_batch(data[0])
        and isinstance(data[1], (np.ndarray, Tensor, list, tuple))
        and getattr(data[1], "ndim", 1) == 1
    )


def _flat(items: Iterable[Any]) -> Iterator[Entry]:
    return (entry for item in items for entry in of_item(item))


def _of_classes(data: Mapping[Any, Any]) -> Iterator[Entry]:
    for name, images in data.items():
        for image in images_in(images):
            yield Entry(image, name)


def _of_path(path: str) -> Carried:
    where = Path(path).expanduser()
    if where.is_dir():
        files = image_files(where)
        if not files:
            raise ImageError(f"there is no file in the folder {where}")
        return Carried([Entry(file) for file in files])
    suffix = where.suffix.lower()
    if suffix in TABLES:
        return read_image_table(where)
    if suffix == ".tar":
        return Carried(entry for shard in shards(path) for entry in tar_entries(shard))
    if suffix == ".txt":
        return _of_list(where)
    return Carried([Entry(path)])


def _of_list(path: Path) -> Carried:
    """An image list; its paths are relative to its folder."""
    try:
        images = read_image_list(path, path.parent, path.stem)
    except BenchmarkError as error:
        raise ImageError(str(error)) from None
    labels = images.labels.tolist()
    return Carried([Entry(images.file(i), label) for i, label in enumerate(labels)])

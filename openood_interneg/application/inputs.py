"""Class names and ID images, in any form that an application has them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openood_interneg.application.class_labels import places_of
from openood_interneg.data.class_folders import class_folders, folders_of
from openood_interneg.data.classnames import ClassNameError, class_names
from openood_interneg.data.image_datasets import is_hugging_face
from openood_interneg.data.image_entries import Entry, image_key
from openood_interneg.data.image_folders import listed_files, warn_of_left
from openood_interneg.data.image_sources import LISTS, as_sources, carried
from openood_interneg.data.image_urls import is_url
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import shown

UNKNOWN = "unknown"
NO_IMAGES = "there are no ID images; give some of every class"


def checked_names(names: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names from a sequence, a file or a known set.

    Raises:
        ClassNameError: names that `check_class_names` refuses, or "unknown".
    """
    names = class_names(names)
    for place, name in enumerate(names):
        if name.casefold().strip() == UNKNOWN:
            raise ClassNameError(
                f"class name {place} is {name!r}, which is what images of no class are called; "
                "rename the class"
            )
    return names


def labelled_images(id_images: Any, names: Sequence[str]) -> tuple[list[Any], np.ndarray]:
    """ID images and their label numbers, from any form that `OODDetector.fit` takes.

    A source that names its classes, as torchvision's and Hugging Face's data sets do, is matched
    by these names and not by its numbers: they count its own classes, in an order of their own.

    Raises:
        DetectorError: no image at all, an image without its class, or classes that are not among
            the names.
        ImageError: a source that cannot be read.
    """
    if id_images is None:
        raise DetectorError(NO_IMAGES)
    if isinstance(id_images, (str, os.PathLike)) and not is_url(id_images):
        path = Path(id_images).expanduser()
        if path.suffix.lower() not in LISTS or path.is_dir():
            id_images = _by_subfolder(path, names)
    numbered: Mapping[int, tuple[str, ...]] | None = None
    if _by_class(id_images, names):
        entries = [
            Entry(image, k) for k, images in id_images.items() for image in as_sources(images)
        ]
    else:
        found = carried(id_images, labelled=True)
        entries, numbered = list(found.entries), found.names
    if not entries:
        raise DetectorError(NO_IMAGES)
    for place, entry in enumerate(entries):
        if entry.label is None:
            raise DetectorError(
                f"ID image {place} comes without its class; give (image, class) pairs, a "
                "mapping class -> images, or a folder with one subfolder per class"
            )
    labels = places_of([entry.label for entry in entries], names, numbered)
    return [entry.image for entry in entries], labels


def _by_class(id_images: Any, names: Sequence[str]) -> bool:
    """Whether this is a mapping class -> images, and not a row or a batch of a data set."""
    if not isinstance(id_images, Mapping) or is_hugging_face(id_images):
        return False
    return image_key(id_images) is None or any(key in names for key in id_images)


def labels_of(labels: Any, names: Sequence[str]) -> np.ndarray:
    """Label numbers (n,) of classes that are given by name or number.

    Raises:
        DetectorError: none are given, or one is not among the names.
    """
    if labels is None:
        raise DetectorError("the features come without labels; give the class of each")
    if isinstance(labels, (Tensor, np.ndarray)):
        labels = labels.tolist()
    return places_of(list(labels), names)


def names_in(id_images: Path) -> tuple[str, ...]:
    """Class names out of ID images on disk, sorted: subfolders (`_` becomes a space), or the labels
    of a table or an archive.

    Raises:
        DetectorError: no folder, one without subfolders, two that give one name; labels that are
            no names.
        ImageError: a table or an archive that cannot be read.
    """
    if id_images.is_dir() or id_images.suffix.lower() not in LISTS:
        return tuple(class_folders(id_images, DetectorError))
    found = carried(id_images, labelled=True)
    labels = {entry.label for entry in found.entries}
    if found.names is not None:
        return tuple(name for _, (name, *_) in sorted(found.names.items()))
    if not all(isinstance(label, str) and not label.isdecimal() for label in labels):
        raise DetectorError(
            f"the labels of {id_images} are no names (one is "
            f"{shown(next(x for x in labels if not isinstance(x, str) or x.isdecimal()))}); give "
            "the class names, in the order of the numbers (--classes)"
        )
    return tuple(sorted(labels))


def unlabelled_images(id_images: Any, names: Sequence[str] = ()) -> list[Any]:
    """Images out of any form that `OODDetector.fit` takes, without their labels.

    Args:
        id_images: the images.
        names: of the classes, which a mapping may have for its keys.
    """
    if _by_class(id_images, names):
        return [source for images in id_images.values() for source in as_sources(images)]
    return as_sources(id_images)


def _by_subfolder(folder: Path, names: Sequence[str]) -> dict[int, list[Path]]:
    if not folder.is_dir():
        raise DetectorError(
            f"{folder} is no folder of ID images, and no list, table or archive of them "
            f"({', '.join(sorted(LISTS))})"
        )
    found: dict[int, list[Path]] = {}
    left: Counter[str] = Counter()
    for label, of_class in enumerate(folders_of(folder, names, DetectorError)):
        found[label], skipped = listed_files(of_class)
        left += skipped
    warn_of_left(folder, left)
    return found

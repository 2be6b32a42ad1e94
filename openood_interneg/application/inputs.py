"""Class names and ID images, in any form that an application has them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from openood_interneg.data.any_image import as_sources, image_files
from openood_interneg.data.class_folders import class_folders
from openood_interneg.data.classnames import (
    ClassNameError,
    class_names,
)
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import shown

UNKNOWN = "unknown"


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

    A data set that names its classes, as torchvision's do, is matched by these names and not by
    its numbers: they count its own classes, in an order of their own.

    Raises:
        DetectorError: no image at all, or a class that is not among the names.
    """
    if id_images is None:
        raise DetectorError("there are no ID images; give some of every class")
    if isinstance(id_images, DataLoader):
        raise DetectorError("ID images come as a data set, not a loader; give its .dataset")
    if isinstance(id_images, (str, os.PathLike)):
        id_images = _by_subfolder(Path(id_images).expanduser(), names)
    if isinstance(id_images, Mapping):
        pairs = [
            (source, _label_of(name, names))
            for name, images in id_images.items()
            for source in as_sources(images)
        ]
    else:
        pairs = []
        numbered = dataset_classes(id_images)
        if numbered is not None:
            id_images = _by_class_name(id_images, numbered, names)
        for place, pair in enumerate(id_images):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise DetectorError(
                    f"ID image {place} comes without its class; give (image, class) pairs, a "
                    "mapping class -> images, or a folder with one subfolder per class"
                )
            pairs.append((pair[0], _label_of(pair[1], names)))
    if not pairs:
        raise DetectorError("there are no ID images; give some of every class")
    return [source for source, _ in pairs], np.array([label for _, label in pairs])


def labels_of(labels: Any, names: Sequence[str]) -> np.ndarray:
    """Label numbers (n,) of classes that are given by name or number.

    Raises:
        DetectorError: none are given, or one is not among the names.
    """
    if labels is None:
        raise DetectorError("the features come without labels; give the class of each")
    if isinstance(labels, (Tensor, np.ndarray)):
        labels = labels.tolist()
    return np.array([_label_of(label, names) for label in labels], dtype=np.int64)


def subfolder_names(folder: Path) -> tuple[str, ...]:
    """Class names out of the subfolders of a folder of ID images, sorted; `_` becomes a space.

    Raises:
        DetectorError: no folder, one without subfolders, or two that give one name.
    """
    return tuple(class_folders(folder, DetectorError))


def unlabelled_images(id_images: Any) -> list[Any]:
    """Images out of any form that `OODDetector.fit` takes, without their labels."""
    if isinstance(id_images, Mapping):
        return [source for images in id_images.values() for source in as_sources(images)]
    if dataset_classes(id_images) is not None:
        return [id_images[place][0] for place in range(len(id_images))]
    if isinstance(id_images, (list, tuple)) and all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in id_images
    ):
        return [pair[0] for pair in id_images]
    return as_sources(id_images)


def dataset_classes(data: Any) -> dict[int, tuple[str, ...]] | None:
    """Names of each label number of a data set that tells them (`class_to_idx`, `classes`), also
    through torch's `Subset` and `ConcatDataset` and other wrappers; None where it does not.

    Raises:
        DetectorError: parts of a concatenation that number other classes alike.
    """
    parts = getattr(data, "datasets", None)
    if isinstance(parts, (list, tuple)):
        told = [dataset_classes(part) for part in parts]
        if all(part is None for part in told):
            return None
        if any(part != told[0] for part in told):
            raise DetectorError(
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
    out: dict[int, tuple[str, ...]] = {}
    for number, name in pairs:  # ImageNet's classes have several names each
        several = name if isinstance(name, (list, tuple)) else (name,)
        if isinstance(number, int) and all(isinstance(one, str) for one in several):
            out[number] = (*out.get(number, ()), *several)
    if out:
        return out
    inner = getattr(data, "dataset", None)
    return None if inner is None or inner is data else dataset_classes(inner)


def _by_class_name(
    data: Any, numbered: Mapping[int, tuple[str, ...]], names: Sequence[str]
) -> Iterator[tuple[Any, int]]:
    """(image, label) pairs of a data set, its own numbers replaced by the places of the names."""
    loosely = {_loose(name): place for place, name in enumerate(names)}
    for place in range(len(data)):
        item = data[place]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DetectorError(
                f"item {place} of the data set is no (image, label) pair; give (image, class) "
                "pairs, a mapping class -> images, or a folder with one subfolder per class"
            )
        label = item[1].item() if isinstance(item[1], (Tensor, np.generic)) else item[1]
        own = numbered.get(label, ()) if isinstance(label, int) else (str(label),)
        found = [loosely[_loose(name)] for name in own if _loose(name) in loosely]
        if not found:
            raise DetectorError(
                f"the data set's class {label!r} ({', '.join(own) or 'without a name'}) is not "
                "among the class names; name the classes as it does, or give (image, class name) "
                "pairs"
            )
        yield item[0], found[0]


def _by_subfolder(folder: Path, names: Sequence[str]) -> dict[int, list[Path]]:
    if not folder.is_dir():
        raise DetectorError(f"{folder} is no folder of ID images")
    present = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir()}
    loosely: dict[str, Path | None] = {}
    for name, path in present.items():
        loosely[_loose(name)] = None if _loose(name) in loosely else path  # None: ambiguous
    found: dict[int, list[Path]] = {}
    missing: list[str] = []
    taken: dict[Path, int] = {}
    for label, name in enumerate(names):
        of_class = present.get(name) or loosely.get(_loose(name))
        if of_class is None:
            missing.append(name)
        elif of_class in taken:
            raise DetectorError(
                f"the classes {names[taken[of_class]]!r} and {name!r} would both get the images of "
                f"{of_class}; name one subfolder exactly like each class"
            )
        else:
            taken[of_class] = label
            found[label] = image_files(of_class)
    if missing:
        raise DetectorError(
            f"{folder} has no subfolder for {len(missing)} of {len(names)} classes: "
            f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}; name the "
            "subfolders like the classes (case, spaces, underscores and slashes do not matter)"
        )
    return found


def _loose(name: str) -> str:
    return " ".join(re.sub(r"[\s_/\\:-]+", " ", name).casefold().split())


def _label_of(name: Any, names: Sequence[str]) -> int:
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
        if not 0 <= name < len(names):
            raise DetectorError(f"class number {shown(name)} is not among 0..{len(names) - 1}")
        return int(name)
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DetectorError(
        f"the ID images have a class {shown(name)} that is not among the names{hint}"
    )

"""Class names and ID images, in any form that an application has them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openood_interneg.application.state import text_digest
from openood_interneg.detectors.base import DetectorError
from openood_interneg.evaluation.images import ImageError, as_sources, image_files
from openood_interneg.vlm.classnames import (
    KNOWN_CLASS_NAMES,
    ClassNameError,
    check_class_names,
    class_names,
)

UNKNOWN = "unknown"


def checked_names(names: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names from a sequence, a file or a known set.

    Raises:
        ClassNameError: names that `check_class_names` refuses, or "unknown".
    """
    if isinstance(names, (str, Path)):
        known = str(names) in KNOWN_CLASS_NAMES
        names = class_names(names)
        if known:
            return names  # ImageNet's own list names two classes twice
    else:
        names = check_class_names(names)
    for place, name in enumerate(names):
        if name.casefold().strip() == UNKNOWN:
            raise ClassNameError(
                f"class name {place} is {name!r}, which is what images of no class are called; "
                "rename the class"
            )
    return names


def labelled_images(id_images: Any, names: Sequence[str]) -> tuple[list[Any], np.ndarray]:
    """ID images and their label numbers, from any form that `InterNegDetector.fit` takes.

    Raises:
        DetectorError: no image at all, or a class that is not among the names.
    """
    if id_images is None:
        raise DetectorError("there are no ID images; give some of every class")
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


def unlabelled_images(id_images: Any) -> list[Any]:
    """Images out of any form that `InterNegDetector.fit` takes, without their labels."""
    if isinstance(id_images, Mapping):
        return [source for images in id_images.values() for source in as_sources(images)]
    if isinstance(id_images, (list, tuple)) and all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in id_images
    ):
        return [pair[0] for pair in id_images]
    return as_sources(id_images)


def images_digest(sources: Sequence[Any], labels: np.ndarray) -> str:
    """Digest of labelled image files by name, label and size; empty for images in memory."""
    lines = []
    for source, label in zip(sources, labels.tolist(), strict=True):
        if not isinstance(source, (str, os.PathLike)):
            return ""
        path = Path(source)
        size = path.stat().st_size if path.is_file() else -1
        lines.append(f"{path.parent.name}/{path.name} {label} {size}")
    return text_digest(lines)


class LabelledImages:
    """ID images as `SpaceSource` wants them; remembers the keys of those that were read."""

    def __init__(
        self,
        encode: Callable[[Sequence[Any]], tuple[Tensor, Tensor]],
        sources: list[Any],
        labels: np.ndarray,
    ):
        self.encode, self.sources, self.labels = encode, sources, labels
        self.keys: set[int] = set()

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        try:
            features, keys = self.encode([self.sources[i] for i in indices])
        except ImageError as error:
            raise ImageError(f"an ID image cannot be used: {error}") from error
        self.keys |= set(keys.tolist())
        return features


def _by_subfolder(folder: Path, names: Sequence[str]) -> dict[int, list[Path]]:
    if not folder.is_dir():
        raise DetectorError(f"{folder} is no folder of ID images")
    present = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir()}
    loosely: dict[str, Path | None] = {}
    for name, path in present.items():
        loosely[_loose(name)] = None if _loose(name) in loosely else path  # None: ambiguous
    found, missing = {}, []
    for label, name in enumerate(names):
        path = present.get(name) or loosely.get(_loose(name))
        if path is None:
            missing.append(name)
        else:
            found[label] = image_files(path)
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
            raise DetectorError(f"class number {name} is not among 0..{len(names) - 1}")
        return int(name)
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DetectorError(f"the ID images have a class {name!r} that is not among the names{hint}")

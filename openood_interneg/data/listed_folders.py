"""Image lists out of folders: every image below them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openood_interneg.data.image_folders import listed_files, warn_of_left
from openood_interneg.data.image_lists import BenchmarkError, ImageList
from openood_interneg.data.images import image_suffixes, printable


def labelled_list(name: str, root: Path, classes: Sequence[tuple[str, Path]]) -> ImageList:
    """The images of the classes' subfolders, class by class.

    Args:
        name: of the list.
        root: folder of the subfolders.
        classes: names and subfolders of the classes, in label order.

    Raises:
        BenchmarkError: a class without images, images beside the subfolders, a file name that is
            not UTF-8.
    """
    loose = [path for path in sorted(root.iterdir()) if path.is_file() and is_image(path)]
    if loose:
        raise BenchmarkError(
            f"{len(loose)} images lie in {root} itself, beside the subfolders of its classes "
            f"(first: {printable(loose[0].name)}); put each into its class's subfolder"
        )
    found = _images_below([folder for _, folder in classes], root)
    empty = [of_class for (of_class, _), paths in zip(classes, found, strict=True) if not paths]
    if empty:
        raise BenchmarkError(
            f"{len(empty)} of {len(classes)} classes have no image in {root}: {some_names(empty)}; "
            "add images, or take the subfolders away"
        )
    labels = np.repeat(np.arange(len(found)), [len(paths) for paths in found])
    return ImageList(name, root, tuple(path for paths in found for path in paths), labels)


def unlabelled_list(name: str, root: Path) -> ImageList:
    """The images of an OOD set.

    Raises:
        BenchmarkError: there is none, or a file name that is not UTF-8.
    """
    (paths,) = _images_below([root], root)
    if not paths:
        raise BenchmarkError(f"there is no image in {root}, the folder of the OOD set '{name}'")
    return ImageList(name, root, tuple(paths), np.full(len(paths), -1, dtype=np.int64))


def is_image(path: Path) -> bool:
    """Whether a file is named like an image that is read here."""
    return path.suffix.lower() in image_suffixes() and not path.name.startswith(".")


def some_names(names: Sequence[str]) -> str:
    """The first five, for a message."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _images_below(folders: Sequence[Path], root: Path) -> list[list[str]]:
    """Paths of each folder's images, from `root`, with `/` on every system."""
    out: list[list[str]] = []
    others: list[Path] = []
    left: Counter[str] = Counter()
    for folder in folders:
        files, skipped = listed_files(folder)
        left += skipped
        others += [path for path in files if not is_image(path)]
        out.append([_text_path(path.relative_to(root)) for path in files if is_image(path)])
    warn_of_left(root, left)
    if others:
        warnings.warn(
            f"{len(others)} files in {root} are left out, since their names end like no image's "
            f"that is read here (first: {printable(others[0].relative_to(root))})",
            stacklevel=2,
        )
    return out


def _text_path(path: Path) -> str:
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError:  # ids of images are made of their names
        raise BenchmarkError(
            f"the name of the image {printable(text)} is not UTF-8; rename the file"
        ) from None
    return text

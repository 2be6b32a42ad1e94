"""Image lists in OpenOOD's form: one `path label` a line, -1 for OOD."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from openood_interneg.data.digests import bytes_digest
from openood_interneg.settings import InternegError, docs_page, shown
from openood_interneg.vlm.text_files import read_text

_LABEL = re.compile(r"-?[0-9]{1,9}")


class BenchmarkError(InternegError, ValueError):
    """A benchmark that is not there, not complete or not well-formed."""


@dataclass(frozen=True)
class ImageList:
    """Images of one set with their labels.

    Attributes:
        name: of the data set.
        folder: what the paths are relative to.
        paths: relative paths; they are also the images' names (and keys).
        labels: (n,) int64, -1 for OOD.
    """

    name: str
    folder: Path
    paths: tuple[str, ...]
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Path of an image."""
        return self.folder / self.paths[index]

    def subset(self, indices: Iterable[int]) -> ImageList:
        """The images at some indices, in that order."""
        indices = np.asarray(list(indices), dtype=np.int64)
        paths = tuple(self.paths[i] for i in indices)
        return ImageList(self.name, self.folder, paths, self.labels[indices])

    def evenly(self, count: int | None) -> ImageList:
        """At most so many images, drawn evenly from the list; all of them for None."""
        if count is None or count >= len(self):
            return self
        return self.subset(np.linspace(0, len(self) - 1, count).round().astype(int))

    def missing(self) -> list[Path]:
        """Files of the list that do not exist, or are empty: a copy that broke off."""
        return [path for i in range(len(self)) if not _has_content(path := self.file(i))]

    @cached_property
    def digest(self) -> str:
        """Hex digest over folder, names, labels, sizes and modification times: for cache keys.

        The set's display name is no part of it. The folder is: unpacked archives often give
        different images the same name, size and time.
        """
        hasher = hashlib.blake2b(os.fsencode(os.path.realpath(self.folder)), digest_size=16)
        for i, (name, label) in enumerate(zip(self.paths, self.labels.tolist(), strict=True)):
            stat = os.stat(self.file(i))
            hasher.update(os.fsencode(name))
            hasher.update(f"\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return hasher.hexdigest()


def list_digest(images: ImageList) -> str:
    """Digest of the names and labels of an image list; no file is looked at."""
    pairs = zip(images.paths, images.labels.tolist(), strict=True)
    return bytes_digest("".join(f"{name} {label}\n" for name, label in pairs).encode())


def read_image_list(path: Path, folder: Path, name: str) -> ImageList:
    """Reads OpenOOD's `path label` lines, as UTF-8 with or without a byte order mark.

    Raises:
        BenchmarkError: absent or empty file, or a line that is not a path and a whole number.
    """
    if not path.exists():
        raise BenchmarkError(
            f"no image list at {path} (for '{name}'); point --data-root to the folder with "
            f"benchmark_imglist/, or see {docs_page('benchmarks.md')} for where it comes from"
        )
    paths, labels = [], []
    # Not splitlines: it also cuts at characters that may stand in a path, such as U+2028.
    lines = io.StringIO(read_text(path, BenchmarkError), newline=None)
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line:
            continue
        image, _, label = line.rpartition(" ")
        if not _LABEL.fullmatch(label):
            raise BenchmarkError(
                f"{path}, line {number}: expected 'path label', found {shown(line)}; a label is a "
                "whole number, -1 for OOD"
            )
        if not image:
            raise BenchmarkError(f"{path}, line {number}: the path is missing")
        labels.append(int(label))
        paths.append(image)
    if not paths:
        raise BenchmarkError(f"the image list {path} (for '{name}') is empty")
    return ImageList(name, folder, tuple(paths), np.asarray(labels, dtype=np.int64))


def check_images(images: ImageList) -> None:
    """Checks that every image of a list is there.

    Raises:
        BenchmarkError: an empty list; or the first 10 missing files and how many there are.
    """
    if len(images) == 0:
        raise BenchmarkError(f"the image list of '{images.name}' is empty")
    missing = images.missing()
    if missing:
        some = "\n  ".join(str(path) for path in missing[:10])
        more = f"\n  ... and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise BenchmarkError(
            f"{len(missing)} of {len(images)} images of '{images.name}' are not there, or are "
            f"empty:\n  {some}{more}\nPut them there, or point --data-root to the folder that "
            "holds OpenOOD's data"
        )


def check_labels(images: ImageList | None, num_classes: int) -> None:
    """Labels of an ID list are those of the class names.

    Raises:
        BenchmarkError: a label below 0, or beyond the last class name.
    """
    if images is None or len(images) == 0:
        return
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= num_classes:
        raise BenchmarkError(
            f"the ID list '{images.name}' has labels from {low} to {high}; with "
            f"{num_classes} class names they must be 0..{num_classes - 1}"
        )


def check_ood_labels(images: ImageList) -> None:
    """Labels of an OOD list are all -1: with others it may be a list of ID images.

    Raises:
        BenchmarkError: another label.
    """
    if (images.labels != -1).any():
        raise BenchmarkError(f"the OOD list '{images.name}' has labels other than -1; OOD is -1")


def shared_names(lists: Iterable[ImageList]) -> dict[str, tuple[str, str]]:
    """Image names that stand for different files: name -> the two sets that have it.

    An image's name is its path in the list, so `0001.png` may be in every folder.
    """
    first: dict[str, ImageList] = {}
    out: dict[str, tuple[str, str]] = {}
    for images in lists:
        for name in images.paths:
            other = first.setdefault(name, images)
            if other is not images and other.folder / name != images.folder / name:
                out.setdefault(name, (other.name, images.name))
    return out


def join_lists(name: str, lists: Iterable[ImageList]) -> ImageList:
    """Several lists as one, in their order, with paths from the folder that they have in common."""
    lists = list(lists)
    common = Path(os.path.commonpath([os.path.abspath(images.folder) for images in lists]))
    if len({images.folder for images in lists}) == 1:
        common = lists[0].folder
    paths: list[str] = []
    for images in lists:
        below = "" if images.folder == common else os.path.relpath(images.folder, common)
        paths += (os.path.join(below, path) for path in images.paths)
    return ImageList(name, common, tuple(paths), np.concatenate([i.labels for i in lists]))


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):  # a name too long, or a character no file name may have
        return False

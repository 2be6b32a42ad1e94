"""The image files of a folder, without what operating systems leave there."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

_LEFT_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r", ".directory"}
_LEFT_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information"}


def is_systems_folder(name: str) -> bool:
    """Whether a folder is hidden, or one of an operating system's own beside pictures."""
    return name.startswith(".") or name.lower() in _LEFT_FOLDERS


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and operating systems' own."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_systems_folder(p.name))


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Every file below a folder, sorted by path; hidden files and folders are left out.

    So is what operating systems put beside pictures (`Thumbs.db`, `.DS_Store`, `desktop.ini` and
    their like), with a warning that counts it.
    """
    files, left = listed_files(folder)
    warn_of_left(folder, left)
    return files


def listed_files(folder: str | os.PathLike[str]) -> tuple[list[Path], Counter[str]]:
    """As `image_files`, with the names and numbers of the systems' own files and no warning."""
    out: list[Path] = []
    left: Counter[str] = Counter()
    for here, folders, names in os.walk(os.fspath(folder)):
        for name in folders:
            if name.lower() in _LEFT_FOLDERS:
                left[name] += 1
        folders[:] = [name for name in folders if not is_systems_folder(name)]
        for name in names:
            if name.lower() in _LEFT_FILES:
                left[name.strip()] += 1
            elif not name.startswith("."):
                out.append(Path(here, name))
    return sorted(out), left


def warn_of_left(folder: str | os.PathLike[str], left: Counter[str]) -> None:
    """Says how many of the systems' own files were skipped, if any."""
    if left:
        names = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
        warnings.warn(
            f"{os.fspath(folder)}: {left.total()} files or folders of the operating system are no "
            f"pictures and were skipped ({names})",
            stacklevel=3,
        )

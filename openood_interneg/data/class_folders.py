"""Classes out of a folder: one subfolder per class, named like it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from openood_interneg.data.classnames import imagenet_ids
from openood_interneg.data.image_folders import subfolders
from openood_interneg.settings import InternegError


def class_folders(folder: Path, error: type[InternegError]) -> dict[str, Path]:
    """The subfolders of a folder by class name, sorted by their own names.

    A class is named like its subfolder, with a space for each `_`; hidden subfolders are none.

    Args:
        folder: of ID images.
        error: what is raised, so that each caller's users see its own kind of error.

    Raises:
        error: no folder, one without subfolders, or two subfolders that give one name.
    """
    found: dict[str, Path] = {}
    if folder.is_dir():
        for path in subfolders(folder):
            name = path.name.replace("_", " ")
            if name in found:
                raise error(
                    f"the subfolders '{found[name].name}' and '{path.name}' of {folder} give one "
                    f"class name, '{name}'; rename or join them"
                )
            found[name] = path
    if not found:
        raise error(
            f"{folder} has no subfolder, and classes are those: put the images of each class "
            "into a subfolder named like it"
        )
    return found


def folders_of(folder: Path, names: Sequence[str], error: type[InternegError]) -> list[Path]:
    """The subfolder of each class, by name; for ImageNet's names also those named by WordNet ids.

    Args:
        folder: is there.
        names: of the classes.
        error: what is raised, so that each caller's users see its own kind of error.

    Raises:
        error: a class without a subfolder, or two classes with the same one.
    """
    present = {path.name: path for path in subfolders(folder)}
    loosely: dict[str, Path | None] = {}
    for name, path in present.items():
        loosely[loose(name)] = None if loose(name) in loosely else path  # None: ambiguous
    of_ids = {label: present[name] for name, label in imagenet_ids(present, names).items()}
    found: list[Path] = []
    missing: list[str] = []
    taken: dict[Path, int] = {}
    for label, name in enumerate(names):
        of_class = present.get(name) or loosely.get(loose(name)) or of_ids.get(label)
        if of_class is None:
            missing.append(name)
            continue
        if of_class in taken:
            raise error(
                f"the classes {names[taken[of_class]]!r} and {name!r} would both get the images of "
                f"{of_class}; name one subfolder exactly like each class"
            )
        taken[of_class] = label
        found.append(of_class)
    if missing:
        raise error(
            f"{folder} has no subfolder for {len(missing)} of {len(names)} classes: "
            f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}; name the "
            "subfolders like the classes (case, spaces, underscores and slashes do not matter)"
        )
    return found


def loose(name: str) -> str:
    """A name without what differs between file names and writing: case, spaces, underscores."""
    return " ".join(re.sub(r"[\s_/\\:-]+", " ", name).casefold().split())

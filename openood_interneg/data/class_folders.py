"""Classes out of a folder: one subfolder per class, named like it."""

from __future__ import annotations

from pathlib import Path

from openood_interneg.data.image_folders import is_systems_folder
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
        for path in sorted(folder.iterdir()):
            name = path.name.replace("_", " ")
            if is_systems_folder(path.name) or not path.is_dir():
                continue
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

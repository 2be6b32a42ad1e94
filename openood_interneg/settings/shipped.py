"""Where the folders lie that are installed inside the package and kept beside it in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def shipped_folder(name: Literal["configs", "docs"]) -> Path:
    """A folder of setup.py's `package_dir`: inside the package when installed, else beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def docs_page(name: str) -> Path:
    """A page of the documentation on this disk, for messages ("own_data.md")."""
    return shipped_folder("docs") / name

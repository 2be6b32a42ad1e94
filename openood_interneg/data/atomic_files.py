"""Where the cache is, and files that are there whole or not at all; torch is not needed for it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def default_root() -> Path:
    """INTERNEG_CACHE, else openood_interneg under XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("INTERNEG_CACHE"):
        return Path(os.environ["INTERNEG_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "openood_interneg"


@contextmanager
def atomic_path(path: Path, mode: int | None = None) -> Iterator[Path]:
    """A temporary sibling that becomes `path` when the block ends without an exception.

    A file that is there keeps its permissions, and a link stays one: its target is replaced.

    Args:
        mode: permissions that the file gets in any case, however an old one was.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's 0600 is for secrets
        os.chmod(temporary, _mode(path) if mode is None else mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Writes a text file atomically."""
    with atomic_path(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _mode(path: Path) -> int:
    """Permissions of the file that `path` is, or that a new file gets."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~umask()


def umask() -> int:
    """The process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""The folders of the store: permissions, and removal of files of killed processes."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from openood_interneg.data.atomic_files import umask
from openood_interneg.data.stored_files import StoreError

STALE = 24 * 3600.0  # seconds; a writer touches its temporary file all the time
TEMPORARY = "interneg-store-"


@contextmanager
def writing(folder: Path) -> Iterator[int]:
    """Writing into a folder of the store; yields the permissions of new files there.

    Folders are made on the way. They and their files are for the user alone; below a root that a
    group may write they are as open as it is, as far as the umask lets them.

    Args:
        folder: root / kind / name.

    Raises:
        StoreError: for every OSError, naming the folder and the remedy.
    """
    root = folder.parents[1]
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            root.mkdir(mode=0o700)
        opened = stat.S_IMODE(root.stat().st_mode) & 0o777
        allowed = opened & ~umask() if opened & stat.S_IWGRP else 0o700
        for part in (folder.parent, folder):
            with suppress(FileExistsError):
                part.mkdir(mode=allowed | 0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "it cannot be written")
        _sweep(root)
        yield (allowed & 0o666) | 0o600
    except OSError as error:
        remedy = (
            "set TMPDIR to a folder with room"
            if root.name.startswith(TEMPORARY)
            else "give another folder (--cache-dir, INTERNEG_CACHE); --no-cache does without"
        )
        raise StoreError(
            f"cannot write to the cache {root}: {error.strerror or error}. Make room, or {remedy}"
        ) from error


def warn_if_others_write(folder: Path) -> None:
    """Whoever can write into the cache decides the figures that come out of it."""
    if not hasattr(os, "geteuid"):
        return
    try:
        found = folder.stat()
    except OSError:
        return
    why = None
    if found.st_uid not in (0, os.geteuid()):
        why = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & stat.S_IWOTH:
        why = "can be written by everybody"
    elif found.st_mode & stat.S_IWGRP and found.st_gid != found.st_uid:  # not one's own group
        why = f"can be written by the group {found.st_gid}"
    if why:
        warnings.warn(
            f"the cache {folder} {why}, who can change results; chmod go-w it, or give a folder "
            "of your own (--cache-dir, INTERNEG_CACHE)",
            stacklevel=3,
        )


def _sweep(root: Path) -> None:
    """Once a day removes what killed writers have left; a live one's file is younger."""
    mark, now = root / ".swept", time.time()
    with suppress(OSError):
        if mark.exists() and now - mark.stat().st_mtime < STALE:
            return
        mark.touch(mode=0o600)
        for path in root.glob("*/*/.*.tmp"):
            with suppress(OSError):
                if now - path.lstat().st_mtime >= STALE:
                    path.unlink()


def temporary_root(owner: object) -> Path:
    """A new folder that is removed with its owner, or when the process ends.

    Raises:
        StoreError: none can be made.
    """
    try:
        _sweep_temporary()
        root = Path(tempfile.mkdtemp(prefix=TEMPORARY))
        # Held as long as the process lives: without it the folder is left over from a dead one.
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except OSError as error:
        raise StoreError(
            f"no temporary folder can be made in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; set TMPDIR to a folder with room"
        ) from error
    weakref.finalize(owner, _remove, root, lock, os.getpid())
    return root


def _remove(root: Path, lock: FileLock, process: int) -> None:
    if os.getpid() == process:  # not in a worker that was forked
        lock.release()
        shutil.rmtree(root, ignore_errors=True)


def _sweep_temporary() -> None:
    """Removes temporary stores whose process is gone (killed, or the machine went down)."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        lock = folder / ".lock"
        # A young one may not have come to take its lock yet.
        with suppress(OSError, Timeout):
            if time.time() - folder.lstat().st_mtime < 60 or not lock.is_file():
                continue
            if folder.is_symlink() or _of_another(folder):
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _of_another(path: Path) -> bool:
    return hasattr(os, "geteuid") and path.lstat().st_uid != os.geteuid()

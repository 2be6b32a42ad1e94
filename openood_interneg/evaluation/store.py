"""Tensors on disk, in shards, never half-read.

An entry is a folder named by the digest of its key. Its shards are safetensors files, each
written under another name and renamed when complete; the manifest is written last. So a killed
run leaves finished shards that the next run takes over, and an entry without a manifest is never
read as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from openood_interneg.settings import InternegError


class StoreError(InternegError, RuntimeError):
    """A stored file that is damaged or cannot be written."""


def default_root() -> Path:
    """INTERNEG_CACHE, else openood_interneg under XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("INTERNEG_CACHE"):
        return Path(os.environ["INTERNEG_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "openood_interneg"


def digest(value: Any) -> str:
    """Hex digest of a JSON-like value; the same for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of named tensors: names, dtypes, shapes and values."""
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `path` when the block ends without an exception.

    A file that is there keeps its permissions, and a link stays one: its target is replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, _mode(path))  # mkstemp's 0600 is for secrets
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a safetensors file atomically, with a digest of its tensors in the header."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {k: json.dumps(v) for k, v in metadata.items()} | {"digest": tensors_digest(tensors)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of `write_tensors` and checks its digest.

    Raises:
        StoreError: truncated, changed or foreign file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Cloned: in the file they are not aligned, which changes the last bits of products.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if header.pop("digest", None) != tensors_digest(tensors):
        raise StoreError(f"{path} is damaged: its content does not match its digest")
    try:
        return tensors, {k: json.loads(v) for k, v in header.items()}
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


class Entry:
    """One stored table of rows, cut into shards of `shard_rows`.

    Args:
        folder: where it lies. key: what decides its content (kept in the manifest).
        rows: total number of rows. shard_rows: rows per shard (the last may have fewer).
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], rows: int, shard_rows: int):
        self.folder, self.key, self.rows, self.shard_rows = folder, key, rows, shard_rows
        self.shards = -(-rows // shard_rows)

    def span(self, shard: int) -> slice:
        """Rows of a shard."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"{shard:06d}.safetensors"

    def complete(self) -> bool:
        """Whether all shards were written and the manifest closed."""
        return (self.folder / "manifest.json").is_file()

    def sound(self) -> bool:
        """Whether it is complete and no file's size has changed since; digests are checked when
        a shard is read."""
        return self.complete() and self._sizes() == self._manifest().get("bytes")

    def missing(self) -> list[int]:
        """Shards that are absent or damaged; damaged ones are removed."""
        out = []
        for shard in range(self.shards):
            try:
                self.read(shard)
            except StoreError:
                out.append(shard)
        return out

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes one shard atomically; each tensor has one row per row of the shard."""
        span = self.span(shard)
        for name, tensor in tensors.items():
            if len(tensor) != span.stop - span.start:
                raise StoreError(f"shard {shard} takes {span.stop - span.start} rows of {name}")
        write_tensors(self.path(shard), tensors, {"shard": shard, "rows": self.rows})

    def read(self, shard: int) -> dict[str, Tensor]:
        """Tensors of one shard, checked against their digest.

        Raises:
            StoreError: damaged; the shard is removed, so that the next run computes it again.
        """
        try:
            return read_tensors(self.path(shard))[0]
        except StoreError as error:
            self.path(shard).unlink(missing_ok=True)
            raise StoreError(f"{error}. It was removed; run again to compute it anew") from error

    def finish(self) -> None:
        """Closes the entry: from now on it is read as complete."""
        manifest = {
            "key": self.key,
            "rows": self.rows,
            "shard_rows": self.shard_rows,
            "bytes": self._sizes(),
        }
        write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1, default=str))

    def _sizes(self) -> list[int]:
        files = [self.path(shard) for shard in range(self.shards)]
        return [file.stat().st_size if file.is_file() else -1 for file in files]

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def read_all(self) -> dict[str, Tensor]:
        """All rows of every tensor."""
        parts = [self.read(shard) for shard in range(self.shards)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def fill(self, compute: Callable[[list[int]], Iterator[Mapping[str, Tensor]]]) -> None:
        """Makes the entry complete and sound: absent or damaged shards are computed.

        Args:
            compute: shard numbers -> the tensors of each, in that order.
        """
        if self.sound():
            return
        missing = self.missing()
        for shard, tensors in zip(missing, compute(missing) if missing else (), strict=True):
            self.write(shard, tensors)
        self.finish()


class Store:
    """Entries by kind and key under one root folder.

    Args:
        root: folder; None keeps nothing (a temporary folder that is removed at exit).
    """

    def __init__(self, root: Path | None):
        if root is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="interneg-")
            root = Path(self._temporary.name)
        self.root = Path(root)

    def entry(self, kind: str, key: Mapping[str, Any], rows: int, shard_rows: int) -> Entry:
        """The entry of a key; nothing is created until a shard is written."""
        name = digest([kind, key, rows, shard_rows])
        return Entry(self.root / kind / name, key, rows, shard_rows)


def _mode(path: Path) -> int:
    """Permissions of the file that `path` is, or that a new file gets."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

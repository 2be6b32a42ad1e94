"""Tensors on disk, in shards, never half-read.

An entry is a folder named by the digest of its key. Its shards are safetensors files, each
written under another name and renamed when complete; the manifest is written last. So a killed
run leaves finished shards that the next run takes over, and an entry without a manifest is never
read as a whole. Every shard holds the name of its entry; one that is damaged, or of another
entry, is computed again, with a warning.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openood_interneg.data.atomic_files import atomic_path, default_root, write_text
from openood_interneg.data.digests import digest
from openood_interneg.data.store_folders import (
    temporary_root,
    warn_if_others_write,
    writing,
)
from openood_interneg.data.stored_files import (
    Layout,
    Rows,
    StoreError,
    check_layout,
    discard,
    read_tensors,
    write_tensors,
)
from openood_interneg.vlm.text_files import read_json

__all__ = [
    "Entry",
    "Rows",
    "Store",
    "StoreError",
    "atomic_path",
    "default_root",
    "read_tensors",
    "write_tensors",
    "write_text",
    "writing",
]

# Part of every name in the store. It grows whenever a key or a file means something else than
# before, so that nothing old is read with a new meaning.
FORMAT = 2

Compute = Callable[[list[int]], Iterator[Mapping[str, Tensor]]]


class Entry:
    """One stored table of rows, cut into shards of `shard_rows`.

    Args:
        folder: the entry's folder, root / kind / name; its name is in every shard.
        key: everything that decides its content (kept in the manifest).
        rows: total number of rows.
        shard_rows: rows per shard (the last may have fewer).
        layout: tensors that a shard must hold; None for any.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        rows: int,
        shard_rows: int,
        layout: Layout | None = None,
    ):
        self.folder, self.key, self.rows, self.shard_rows = folder, key, rows, shard_rows
        self.layout = layout
        self.shards = -(-rows // shard_rows)
        self._compute: Compute | None = None

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
        """Whether it is complete and no file's size has changed since.

        The name of the entry and the digest in a shard are checked when it is read.
        """
        if not self.complete():
            return False
        manifest = self._manifest()
        return manifest.get("entry") == self.folder.name and manifest.get("bytes") == self._sizes()

    def verified(self) -> bool:
        """Whether it is sound, and every shard was read and found in order."""
        return self.sound() and not self.missing()

    def missing(self) -> list[int]:
        """Shards that are absent or damaged; damaged ones are removed, with a warning."""
        out = []
        for shard in range(self.shards):
            if not os.path.lexists(self.path(shard)):
                out.append(shard)
                continue
            try:
                self._load(shard)
            except StoreError as error:
                self._give_up(shard, error)
                out.append(shard)
        return out

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes one shard atomically; each tensor has one row per row of the shard.

        Raises:
            StoreError: other tensors than the entry's, or a file that cannot be written.
        """
        span = self.span(shard)
        count = span.stop - span.start
        for name, tensor in tensors.items():
            if len(tensor) != count:
                raise StoreError(f"shard {shard} takes {count} rows of {name}")
        if self.layout is not None:
            try:
                check_layout(tensors, self.layout, count)
            except ValueError as error:
                raise StoreError(f"what was computed for {self.folder} is wrong: {error}") from None
        with writing(self.folder) as mode:
            write_tensors(self.path(shard), tensors, self._owner(shard), mode)

    def read(self, shard: int) -> dict[str, Tensor]:
        """Tensors of one shard, checked against their digest, their owner and their layout.

        A bad one is made anew, with a warning, where the entry was filled by this object.

        Raises:
            StoreError: damaged; the shard is removed, so that the next run computes it again.
        """
        try:
            return self._load(shard)
        except StoreError as error:
            if self._compute is None:
                with writing(self.folder):
                    discard(self.path(shard))
                raise StoreError(
                    f"{error}. It was removed; run again to compute it anew"
                ) from error
            self._give_up(shard, error)
        (tensors,) = self._compute([shard])
        self.write(shard, tensors)
        return self._load(shard)

    def _load(self, shard: int) -> dict[str, Tensor]:
        path, span = self.path(shard), self.span(shard)
        tensors, header = read_tensors(path, self.layout, span.stop - span.start)
        if header != self._owner(shard):
            raise StoreError(
                f"{path} belongs elsewhere: it is shard {header.get('shard')!r} of "
                f"{str(header.get('entry'))[:40]!r}"
            )
        return tensors

    def _owner(self, shard: int) -> dict[str, Any]:
        return {"entry": self.folder.name, "shard": shard, "rows": self.rows}

    def _give_up(self, shard: int, error: StoreError) -> None:
        warnings.warn(f"{error}; it is made anew", stacklevel=3)
        with writing(self.folder):
            discard(self.path(shard))

    def finish(self) -> None:
        """Closes the entry: from now on it is read as complete."""
        manifest = {
            "entry": self.folder.name,
            "key": self.key,
            "rows": self.rows,
            "shard_rows": self.shard_rows,
            "bytes": self._sizes(),
        }
        path = self.folder / "manifest.json"
        with writing(self.folder) as mode:
            if os.path.lexists(path) and not self._manifest():
                warnings.warn(f"{path} is damaged; it is made anew", stacklevel=3)
                discard(path)
            write_text(path, json.dumps(manifest, indent=1, default=str), mode)

    def _sizes(self) -> list[int]:
        files = [self.path(shard) for shard in range(self.shards)]
        return [file.stat().st_size if file.is_file() else -1 for file in files]

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = read_json(self.folder / "manifest.json", StoreError)
        except StoreError:
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def read_all(self) -> dict[str, Tensor]:
        """All rows of every tensor."""
        parts = [self.read(shard) for shard in range(self.shards)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def fill(self, compute: Compute) -> None:
        """Makes the entry complete and sound: absent or damaged shards are computed.

        Args:
            compute: shard numbers -> the tensors of each, in that order. It is kept for a shard
                that turns out to be damaged when it is read.

        Raises:
            StoreError: the folder cannot be written; raised before anything is computed.
        """
        self._compute = compute
        if self.sound():
            return
        missing = self.missing()
        with writing(self.folder):
            pass
        for shard, tensors in zip(missing, compute(missing) if missing else (), strict=True):
            self.write(shard, tensors)
        self.finish()


class Store:
    """Entries by kind and key under one root folder.

    Args:
        root: folder; None keeps nothing (a temporary folder that is removed at exit).

    Raises:
        StoreError: the root is no folder, or no temporary folder can be made.
    """

    def __init__(self, root: Path | None):
        if root is None:
            root = temporary_root(self)
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"the cache {self.root} is no folder; give another with --cache-dir")
        warn_if_others_write(self.root)

    def folder(self, kind: str, key: Any) -> Path:
        """Where what a key decides is kept; nothing is created."""
        warn_if_others_write(self.root / kind)
        folder = self.root / kind / digest([FORMAT, kind, key])
        warn_if_others_write(folder)
        return folder

    def entry(
        self,
        kind: str,
        key: Mapping[str, Any],
        rows: int,
        shard_rows: int,
        layout: Layout | None = None,
    ) -> Entry:
        """The entry of a key; nothing is created until a shard is written.

        Args:
            layout: tensors that a shard must hold, checked whenever one is read or written.
        """
        return Entry(self.folder(kind, [key, rows, shard_rows]), key, rows, shard_rows, layout)

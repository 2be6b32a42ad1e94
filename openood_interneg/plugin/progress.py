"""Progress bars over batches of images and over texts that are encoded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm


def batches(loader: DataLoader, progress: bool, what: str = "") -> Iterator[Any]:
    """The batches of a loader behind a progress bar, in the main process only."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        progress = progress and torch.distributed.get_rank() == 0
    # OpenOOD's logger replaces sys.stdout by an object that tqdm cannot use.
    return iter(tqdm(loader, desc=what or None, disable=not progress, file=sys.stderr))


class TextBar:
    """Progress of text encoding, one bar per kind of text, shown while there is something."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = tqdm(total=total, desc=f"encoding {what}", disable=None)
        bar = self._bars[what]
        bar.update(done)
        if bar.n >= total:
            self._bars.pop(what).close()

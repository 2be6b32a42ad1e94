"""The same work over several processes, machines or devices.

Encoding images, encoding the corpus and inverting are pure maps, and the store cuts them into
shards. Every process runs the same program; where it comes to an entry of the store, the missing
shards are dealt out (the first to rank 0, the next to rank 1, ...), each process writes its own,
and rank 0 closes the entry when all are there. What a shard holds does not depend on who computes
it, so the result is that of one process. All that crosses between processes is the list of
missing shards and a few barriers (gloo, also where the model runs on a GPU); features travel
through the store, which must be a folder that all of them see.

A process that is killed leaves its finished shards; run again and only the rest is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from openood_interneg.data.store import Entry, Store, writing
from openood_interneg.data.stored_files import Layout

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this one. size: how many there are. local_rank: its number on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, items: Sequence[T]) -> list[T]:
        """What this process does of some work: every size-th item, from its rank on."""
        return list(items[self.rank :: self.size])

    def agree(self, decide: Callable[[], T]) -> T:
        """What rank 0 decides, in every process."""
        if self.size == 1:
            return decide()
        box: list[Any] = [decide() if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(patience: timedelta = timedelta(hours=12)) -> Iterator[World]:
    """The world that torchrun (or Slurm with the same variables) describes; else one process.

    Args:
        patience: how long a process waits for slower ones.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    dist.init_process_group("gloo", timeout=patience)
    try:
        yield World(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def own_device(world: World, name: str) -> torch.device:
    """`auto` or `cuda` -> this process's own GPU; anything else as it is."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device("cpu" if name == "auto" else name)


class SharedEntry(Entry):
    """An entry whose missing shards are computed by all processes together."""

    def __init__(self, world: World, *args: Any):
        super().__init__(*args)
        self.world = world

    def sound(self) -> bool:
        """As `Entry.sound`, with one answer for all; every process must call it."""
        return self.world.agree(lambda: Entry.sound(self))

    def verified(self) -> bool:
        """As `Entry.verified`, with one answer for all; every process must call it."""
        return self.world.agree(lambda: Entry.sound(self) and not self.missing())

    def fill(self, compute: Callable[[list[int]], Iterator[Mapping[str, Tensor]]]) -> None:
        """As `Entry.fill`; every process must call it."""
        self._compute = compute
        missing = self.world.agree(self.missing)
        if missing:
            with writing(self.folder):
                pass
        mine = self.world.share(missing)
        for shard, tensors in zip(mine, compute(mine) if mine else (), strict=True):
            self.write(shard, tensors)
        self.world.wait()
        if self.world.rank == 0 and (missing or not Entry.sound(self)):
            self.finish()
        self.world.wait()


class SharedStore(Store):
    """A store that several processes fill together.

    Args:
        root: a folder that all of them see. world: the processes.
    """

    def __init__(self, root: Path, world: World):
        super().__init__(root)
        self.world = world

    def entry(
        self,
        kind: str,
        key: Mapping[str, Any],
        rows: int,
        shard_rows: int,
        layout: Layout | None = None,
    ) -> Entry:
        """As `Store.entry`."""
        folder = super().entry(kind, key, rows, shard_rows).folder
        return SharedEntry(self.world, folder, key, rows, shard_rows, layout)

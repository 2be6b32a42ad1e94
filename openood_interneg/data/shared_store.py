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

import contextlib
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
class DistContext:
    """The processes of a run.

    Attributes:
        rank: number of this process.
        size: how many processes there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def share(self, items: Sequence[T]) -> list[T]:
        """The part of some work that this process does: every size-th item, from its rank on."""
        return list(items[self.rank :: self.size])

    def agree(self, decide: Callable[[], T]) -> T:
        """What rank 0 decides, in every process."""
        if self.size == 1:
            return decide()
        box: list[Any] = [decide() if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Returns when every process has called it."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def init_distributed(patience: timedelta = timedelta(hours=12)) -> Iterator[DistContext]:
    """The processes that torchrun (or Slurm with its variables) describes; else this one alone.

    Args:
        patience: how long a process waits for slower ones.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistContext()
        return
    dist.init_process_group("gloo", timeout=patience)
    try:
        yield DistContext(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
        # Without it a process whose peers are gone may be ended by threads of gloo.
        with contextlib.suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


def local_device(context: DistContext, name: str) -> torch.device:
    """`auto` or `cuda` -> this process's own GPU; anything else as it is."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", context.local_rank % torch.cuda.device_count())
    return torch.device("cpu" if name == "auto" else name)


class SharedEntry(Entry):
    """An entry whose missing shards are computed by all processes together."""

    def __init__(self, context: DistContext, *args: Any):
        super().__init__(*args)
        self.context = context

    def sound(self) -> bool:
        """As `Entry.sound`, with one answer for all; every process must call it."""
        return self.context.agree(lambda: Entry.sound(self))

    def verified(self) -> bool:
        """As `Entry.verified`, with one answer for all; every process must call it."""
        return self.context.agree(lambda: Entry.sound(self) and not self.missing())

    def fill(self, compute: Callable[[list[int]], Iterator[Mapping[str, Tensor]]]) -> None:
        """As `Entry.fill`; every process must call it."""
        self._compute = compute
        missing = self.context.agree(self.missing)
        if missing:
            with writing(self.folder):
                pass
        mine = self.context.share(missing)
        for shard, tensors in zip(mine, compute(mine) if mine else (), strict=True):
            self.write(shard, tensors)
        self.context.wait()
        if self.context.rank == 0 and (missing or not Entry.sound(self)):
            self.finish()
        self.context.wait()


class SharedStore(Store):
    """A store that several processes fill together.

    Args:
        root: a folder that all processes see.
        context: the processes.
    """

    def __init__(self, root: Path, context: DistContext):
        super().__init__(root)
        self.context = context

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
        return SharedEntry(self.context, folder, key, rows, shard_rows, layout)

"""Encoding of the next batch while the last one is still being scored and inverted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def encoded_ahead(
    batches: Iterable[Batch],
    encode: Callable[[Batch], Result],
    device: torch.device,
    *,
    overlap: bool | None = None,
) -> Iterator[tuple[Batch, Result]]:
    """Yields each batch with its encoding, in order.

    On a GPU the next batch is read and encoded by a second thread, in a CUDA stream of its own,
    while the caller works on the current one: an inversion is many small kernels, which leave
    room beside them. On a CPU both would want the same cores, so there it is off.

    Args:
        batches: what is encoded.
        encode: batch -> its encoding, which is ready on `device` when it is yielded.
        device: of the encoding.
        overlap: None is on for a GPU and off for a CPU.

    Raises:
        Exception: whatever reading or encoding a batch raises, when its turn comes.
    """
    if overlap is None:
        overlap = device.type == "cuda"
    iterator = iter(batches)
    if not overlap:
        for batch in iterator:
            yield batch, encode(batch)
        return
    side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def following() -> tuple[Batch, Result] | None:
        with nullcontext() if side is None else torch.cuda.stream(side):
            for batch in iterator:
                result = encode(batch)
                if side is not None:
                    side.synchronize()  # blocks this thread only
                return batch, result
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="encode-ahead") as thread:
        waiting = thread.submit(following)
        while (found := waiting.result()) is not None:
            waiting = thread.submit(following)
            if side is not None:
                _keep(found[1], torch.cuda.current_stream(device))
            yield found


def _keep(result: object, stream: torch.cuda.Stream) -> None:
    """Memory that `stream` reads is not handed out again before it has done so."""
    if isinstance(result, torch.Tensor):
        result.record_stream(stream)
    elif isinstance(result, (tuple, list)):
        for part in result:
            _keep(part, stream)

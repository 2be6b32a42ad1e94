"""Bars for what takes long: loading, reading ID images, encoding texts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openood_interneg.data.encode import Progress


def tell(text: str, progress: Progress | bool | None) -> None:
    """One line on stderr where there are bars, and for those who log, an info of this package."""
    logging.getLogger("openood_interneg").info(text)
    if progress is True or (progress is None and sys.stderr.isatty()):
        print(text, file=sys.stderr)


@contextmanager
def progress_log(progress: Progress | bool | None) -> Iterator[Progress]:
    """What progress is logged to.

    Args:
        progress: a function of (what, finished since the last call, total); True for bars on
            stderr, False for silence, None for bars where stderr is a terminal.
    """
    if callable(progress):
        yield progress
        return
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda what, done, total: None
        return
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(desc=what, total=total, file=sys.stderr, position=len(bars))
        bars[what].update(done)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()

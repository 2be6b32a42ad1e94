"""A run that is asked to end finishes the batch in hand first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A signal came while the program waited for input."""


class SignalGuard:
    """SIGTERM and Ctrl-C end the run after the batch in hand; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.waiting = False
        self.before: dict[int, Any] = {}  # handlers

    def __enter__(self) -> SignalGuard:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread
                self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self.waiting:
            raise Interrupted

    def watched(self, names: Iterator[str]) -> Iterator[str]:
        """The same names; a signal that comes while the next one is awaited ends the run."""
        while True:
            self.waiting = True
            try:
                if self.signal:
                    raise Interrupted
                name = next(names, None)
            finally:
                self.waiting = False
            if name is None:
                return
            yield name

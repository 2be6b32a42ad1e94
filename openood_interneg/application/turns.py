"""Who may add to a detector's stream: one call or one open stream at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from openood_interneg.detectors.base import DetectorError

Mode = Literal["refuse", "arrival"]


class Turn:
    """The right of one call or stream to update.

    Args:
        what: names its holder in messages.
        alone: whether nobody else may have one meanwhile.
    """

    def __init__(self, what: str, alone: bool):
        self.what, self.alone = what, alone


class Turns:
    """Hands out the right to update.

    A `Turn` belongs to a call from its start to its end, or to a stream from its first batch until
    it is used up or closed; it has nothing to do with threads, whose ids the system gives out
    again. So calls one after the other are accepted whichever threads make them, and with mode
    "refuse" any update that comes while another one holds the turn is an error, also from the
    same thread. With "arrival" updates wait for each other, call by call or batch by batch.
    """

    def __init__(self, mode: Mode):
        self.mode = mode
        self.lock = threading.RLock()  # held while the detector's memory is read or changed
        self._guard = threading.RLock()  # of the holder: asked for while others hold `lock`
        self.restart()

    def restart(self) -> None:
        """A fresh stream: whoever held the turn has lost it."""
        with self._guard:
            self._holder: Turn | None = None
            self._process = os.getpid()

    @contextmanager
    def held(self, what: str, memory: bool = True) -> Iterator[Turn]:
        """Takes the turn for the block.

        Args:
            what: names the holder.
            memory: False where updates leave nothing that others see.

        Raises:
            DetectorError: somebody else holds it, or this is a copy in another process.
        """
        turn = Turn(what, memory and self.mode == "refuse")
        with self._guard:
            if memory and os.getpid() != self._process:
                raise DetectorError(
                    "this detector was copied into another process, where its bank would go its "
                    "own way; save and load it there, or score with update=False"
                )
            if turn.alone:
                if self._holder is not None:
                    raise DetectorError(
                        f"{self._holder.what} is adding to this detector's stream and has not "
                        "ended, so scores would depend on who comes first; let it end (a stream: "
                        "use it up or close() it), or score with update=False, or give each its "
                        "own detector, or accept the order of arrival with threads='arrival'"
                    )
                self._holder = turn
        try:
            yield turn
        finally:
            with self._guard:
                if self._holder is turn:
                    self._holder = None

    @contextmanager
    def used(self, turn: Turn) -> Iterator[None]:
        """One update under a turn; others wait.

        Raises:
            DetectorError: the turn was lost to `restart`.
        """
        with self.lock:
            if turn.alone and self._holder is not turn:
                raise DetectorError(
                    f"the stream that {turn.what} added to is no more: the detector was reset, "
                    "fitted or loaded meanwhile; start again"
                )
            yield

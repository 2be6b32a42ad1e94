"""What `interneg score` writes: JSON lines, and the state that says how far they go."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.state import StateError
from openood_interneg.application.stream import Scored
from openood_interneg.settings import SettingsError


def check_overwriting(out: Path | None, force: bool, state: Path | None) -> None:
    """Results that are there are not lost without a word; a run that goes on keeps its lines.

    Raises:
        SettingsError: the file holds something, and this run would begin it anew.
    """
    goes_on = state is not None and state.exists()
    if out is None or force or goes_on or not out.is_file() or not out.stat().st_size:
        return
    raise SettingsError(
        f"--out {out} is there, with {out.stat().st_size} bytes, and would be overwritten; give "
        "another file, --force, or the --state of the run that wrote it"
    )


def json_line(entry: Scored) -> bytes:
    """One result as a line of JSON."""
    record = {
        "position": entry.position,
        "file": entry.name,
        "prediction": entry.prediction,
        "label": entry.label,
        "score": entry.score,
        "unknown": entry.unknown,
    }
    if entry.error is not None:
        record["error"] = entry.error
    return (json.dumps(record, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def open_output(path: Path | None, detector: InterNegDetector, resume: bool) -> Iterator[BinaryIO]:
    """The file for the lines; when resumed, cut to where the state was written.

    Raises:
        StateError: the file is shorter than it was then.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            yield file
        return
    size = path.stat().st_size if path.is_file() else 0
    written = detector.note.get("output_bytes")
    if written is None and size == 0:
        written = 0
    if not isinstance(written, int) or written < 0:
        raise StateError(f"the state was kept without --out, so where to go on in {path} is open")
    if size < written:
        raise StateError(
            f"{path} has {size} bytes, but {written} were written when the state was kept; give "
            "the file of that run, or start a new state"
        )
    with open(path, "r+b" if path.is_file() else "wb") as file:
        file.truncate(written)
        file.seek(written)
        yield file


class Checkpointer:
    """Flushes the output and writes the state, every so many images."""

    def __init__(
        self,
        detector: InterNegDetector,
        state: Path | None,
        file: BinaryIO,
        seekable: bool,
        every: int,
    ):
        self.detector, self.state, self.file = detector, state, file
        self.seekable, self.every = seekable, every
        self.since = 0
        self.saved = -1

    def batch(self, count: int) -> None:
        """Told of every batch."""
        self.since += count
        if not self.seekable:
            self.file.flush()  # whoever reads the pipe wants to see it
        if self.since >= self.every:
            self.now()

    def now(self) -> None:
        """Writes the state, if the stream went on since the last time."""
        if self.detector.position == self.saved:
            return
        self.since, self.saved = 0, self.detector.position
        self.file.flush()
        if self.state is None:
            return
        if self.seekable:
            os.fsync(self.file.fileno())  # lines first: a state never speaks of lines not there
            self.detector.note = {"output_bytes": self.file.tell()}
        self.detector.save(self.state)

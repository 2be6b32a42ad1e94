"""What `interneg score` writes: JSON lines, and the state that says how far they go."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from openood_interneg.application.detector import OODDetector
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


COLUMNS = ("position", "file", "prediction", "label", "score", "unknown", "gamma", "p", "error")
ONLY_WHERE_THERE = COLUMNS[-3:]


def json_line(entry: Scored) -> bytes:
    """One result as a line of JSON; gamma, p and error only where there are such."""
    record = {
        name: value
        for name, value in _record(entry).items()
        if value is not None or name not in ONLY_WHERE_THERE
    }
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def csv_line(entry: Scored) -> bytes:
    """One result as a line of a table with `COLUMNS`; empty cells where there is nothing."""
    return _csv(_record(entry).values())


def _record(entry: Scored) -> dict[str, Any]:
    values = (entry.position, entry.name, entry.prediction, entry.label, entry.score)
    more = (entry.unknown, entry.gamma, entry.p, entry.error)
    return dict(zip(COLUMNS, values + more, strict=True))


def _csv(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def open_output(path: Path | None, detector: OODDetector, resume: bool) -> Iterator[BinaryIO]:
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
            if path.suffix.lower() == ".csv":
                file.write(_csv(COLUMNS))
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
    """Flushes the output and writes the state, every so many images; counts unknown ones."""

    def __init__(
        self,
        detector: OODDetector,
        state: Path | None,
        file: BinaryIO,
        seekable: bool,
        every: int,
    ):
        self.detector, self.state, self.file = detector, state, file
        self.seekable, self.every = seekable, every
        self.since = 0
        self.saved = -1
        kept = detector.note.get("unknown", 0)
        self.unknown = kept if isinstance(kept, int) else 0

    def batch(self, batch: Sequence[Scored]) -> None:
        """Told of every batch."""
        self.since += len(batch)
        self.unknown += sum(entry.unknown is True for entry in batch)
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
        self.detector.note = {"unknown": self.unknown}
        if self.seekable:
            os.fsync(self.file.fileno())  # lines first: a state never speaks of lines not there
            self.detector.note = {"unknown": self.unknown, "output_bytes": self.file.tell()}
        self.detector.save(self.state)

"""What `interneg score` writes: lines or a table, and the state that says how far they go."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from openood_interneg.application.detector import OODDetector
from openood_interneg.application.state import StateError
from openood_interneg.application.stream import Scored
from openood_interneg.data.images import printable
from openood_interneg.data.store import atomic_path
from openood_interneg.evaluation.results import csv_cell
from openood_interneg.settings import SettingsError, require_package


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


LINES = (".jsonl", ".ndjson")
CSV, PARQUET = ".csv", ".parquet"
ROWS_PER_GROUP = 10_000  # of a Parquet file


def check_format(out: Path | None, state: Path | None) -> None:
    """Refuses, before any work, an --out of no known format, and Parquet where it cannot be.

    Raises:
        SettingsError: another suffix, or Parquet that is to be continued.
        MissingPackageError: Parquet without pyarrow.
    """
    if out is None or (out.exists() and not out.is_file()):  # pipes and devices take JSON lines
        return
    suffix = out.suffix.lower()
    if suffix not in (*LINES, CSV, PARQUET):
        raise SettingsError(
            f"--out {out} ends in {suffix or 'no suffix'}, which says no format; end it in .jsonl "
            "(JSON lines), .csv or .parquet"
        )
    if suffix != PARQUET:
        return
    require_package("pyarrow", "'openood-interneg[parquet]'", f"--out {out}")
    if state is not None:
        raise SettingsError(
            f"--out {out} cannot be continued, since a Parquet file is written whole; with --state "
            "give a .jsonl or .csv"
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
    return _csv(map(csv_cell, _record(entry).values()))


def _record(entry: Scored) -> dict[str, Any]:
    values = (entry.position, entry.name, entry.prediction, entry.label, entry.score)
    more = (entry.unknown, entry.gamma, entry.p, entry.error)
    return dict(zip(COLUMNS, values + more, strict=True))


def _csv(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


class Lines:
    """A file or stream that gets each result as a line."""

    def __init__(self, file: BinaryIO, line: Callable[[Scored], bytes] = json_line):
        self.file, self.line = file, line

    def write(self, entry: Scored) -> None:
        """Adds a result."""
        self.file.write(self.line(entry))

    def flush(self) -> None:
        """Hands on what was written."""
        self.file.flush()

    def kept_bytes(self) -> int:
        """The length of the file, once it is surely on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()


class ParquetRows(Lines):
    """A Parquet file with `COLUMNS`."""

    def __init__(self, file: BinaryIO):
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        super().__init__(file)
        kinds = {"position": pa.int64(), "unknown": pa.bool_()}
        kinds |= dict.fromkeys(("score", "gamma", "p"), pa.float64())
        self.schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        self.writer = ParquetWriter(file, self.schema)
        self.rows: list[dict[str, Any]] = []

    def write(self, entry: Scored) -> None:
        """Adds a result; rows are written in groups."""
        self.rows.append(_record(entry) | {"file": printable(entry.name)})
        if len(self.rows) >= ROWS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        """Writes what is left, and the end of the file."""
        self._write_group()
        self.writer.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows = []


@contextlib.contextmanager
def open_output(path: Path | None, detector: OODDetector, resume: bool) -> Iterator[Lines]:
    """Where results go; a file of lines is, when resumed, cut to where the state was written.

    A Parquet file is there when the block ends, and not before.

    Raises:
        StateError: the file is shorter than it was then.
    """
    if path is None:
        yield Lines(sys.stdout.buffer)
        return
    suffix = path.suffix.lower()
    if suffix == PARQUET and (path.is_file() or not path.exists()):
        with (
            atomic_path(path) as temporary,
            temporary.open("wb") as raw,
            contextlib.closing(ParquetRows(raw)) as rows,
        ):
            yield rows
        return
    line = csv_line if suffix == CSV else json_line
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            if suffix == CSV:
                file.write(_csv(COLUMNS))
            yield Lines(file, line)
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
        yield Lines(file, line)


class Checkpointer:
    """Flushes the output and writes the state, every so many images; counts unknown ones."""

    def __init__(
        self,
        detector: OODDetector,
        state: Path | None,
        output: Lines,
        seekable: bool,
        every: int,
    ):
        self.detector, self.state, self.output = detector, state, output
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
            self.output.flush()  # whoever reads the pipe wants to see it
        if self.since >= self.every:
            self.now()

    def now(self) -> None:
        """Writes the state, if the stream went on since the last time."""
        if self.detector.position == self.saved:
            return
        self.since, self.saved = 0, self.detector.position
        self.output.flush()
        if self.state is None:
            return
        self.detector.note = {"unknown": self.unknown}
        if self.seekable:
            # Lines first: a state never speaks of lines that are not there.
            self.detector.note = {
                "unknown": self.unknown,
                "output_bytes": self.output.kept_bytes(),
            }
        self.detector.save(self.state)

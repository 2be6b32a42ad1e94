"""`interneg score`: images of any origin, one JSON line each."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Optional

import typer

from openood_interneg.application.detector import APPLICATION_DEFAULTS, InterNegDetector
from openood_interneg.application.inputs import labelled_images
from openood_interneg.application.state import StateError, claimed, refuse_differences
from openood_interneg.application.stream import Scored
from openood_interneg.cli.arguments import (
    BackboneName,
    Config,
    Device,
    NoCache,
    Precision,
    Preprocessing,
    Preset,
    Pretrained,
)
from openood_interneg.cli.console import progress_bars, reader_left, say
from openood_interneg.cli.options import plan_methods, with_settings
from openood_interneg.cli.workspace import DEFAULT_BACKBONE, check_out_file
from openood_interneg.data.any_image import ImageLimits, image_files
from openood_interneg.data.encode import Progress
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.text_files import MAX_BYTES, parse_yaml_value

Text = Optional[str]  # noqa: UP045 - typer reads it
File = Optional[Path]  # noqa: UP045

LONGEST_LINE = 32 * 2**10  # bytes of a path


def score(
    settings: dict,
    images: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Folder, image, text file with one path a line, or - for paths on standard input.",
        ),
    ],
    classes: Annotated[
        str, typer.Option(help="Text file with one class name a line, or a known set (cifar100).")
    ],
    id_images: Annotated[
        Path, typer.Option(help="Folder with one subfolder of ID images per class.")
    ],
    out: Annotated[File, typer.Option(help="File for the JSON lines; default: stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out if it is there.")] = False,
    backbone: BackboneName = None,
    pretrained: Pretrained = None,
    gamma: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, max=1, help="Images that score below are unknown; default: calibrate."),
    ] = None,
    calibrate: Annotated[
        File,
        typer.Option(help="ID images for gamma; default: those of --id-images made no proxy."),
    ] = None,
    tpr: Annotated[float, typer.Option(help="Share of ID images that gamma lets pass.")] = 0.95,
    state: Annotated[
        File, typer.Option(help="File that keeps the bank and the position; resumed if there.")
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Images between two writes of --state.")
    ] = 1000,
    append: Annotated[
        bool, typer.Option("--append", help="DIR holds new images, not the interrupted input.")
    ] = False,
    on_error: Annotated[str, typer.Option(help="Unreadable images: skip or stop.")] = "skip",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    protect: Annotated[
        str, typer.Option(help="Protections of the bank: diversity=0.95,max_age=5000,...")
    ] = "",
    exif: Annotated[
        bool, typer.Option("--exif/--no-exif", help="Turn photographs as EXIF says.")
    ] = True,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger images are errors.")
    ] = ImageLimits.max_pixels,
    preset: Preset = None,
    preprocess: Preprocessing = "clip",
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Annotated[int, typer.Option(min=0, help="Threads that read images.")] = 0,
    config: Config = None,
    cache_dir: Annotated[File, typer.Option(help="Where text features are kept.")] = None,
    no_cache: NoCache = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No messages.")] = False,
) -> None:
    """Score images: a class name or "unknown" for each, as one JSON line.

    A line holds position, file, prediction, label (the nearest class), score and unknown, or
    error. With --state a run that was stopped goes on where it was, with the scores that the
    unbroken run would have given; --out is cut to where the state was written.
    """
    ((_, chosen),) = plan_methods("interneg", settings, config, preset, APPLICATION_DEFAULTS)
    if on_error not in ("skip", "stop"):
        raise SettingsError(f"--on-error is {on_error!r}; choose one of skip, stop")
    if append and state is None:
        raise SettingsError("--append goes on from a state; give --state FILE")
    if state is not None and out is not None and os.path.realpath(state) == os.path.realpath(out):
        raise SettingsError(f"--out and --state are one file, {out}; give each its own")
    protections = parse_protections(protect)
    check_out_file(state, "--state")
    check_out_file(out, streams=True)
    check_overwriting(out, force, state)
    names, total = open_input(images)
    detector = InterNegDetector(
        backbone or DEFAULT_BACKBONE,
        pretrained=pretrained,
        device=device,
        precision=precision,
        preprocess=preprocess,
        batch_size=batch_size,
        protections=protections,
        limits=ImageLimits(exif=exif, max_pixels=max_pixels),
        cache=False if no_cache else cache_dir or True,
        **as_mapping(chosen),
    )
    with claimed(state), progress_bars(quiet) as progress:
        resume = state is not None and state.exists()
        if resume:
            detector.load(state, class_names=classes, id_images=id_images)
            threshold = {"tpr": (detector.tpr, tpr)}
            if gamma is not None:
                threshold = {"gamma": (detector.gamma, gamma)}
            refuse_differences(f"the state {state}", threshold)
        else:
            detector.fit(classes, id_images, progress=progress)
            find_gamma(detector, gamma, calibrate, tpr, id_images, progress)
        say(f"gamma {detector.gamma:.6g}, bank {detector.bank_size}", quiet)
        with open_output(out, detector, resume) as file, SignalGuard() as stop:
            checkpoint = Checkpointer(detector, state, file, out is not None, checkpoint_every)
            checkpoint.now()
            if resume and not append:
                say(f"resumed at image {detector.position}", quiet)
                progress("images", detector.position - detector.begun, total)
            batches = detector.stream(
                stop.watched(names),
                on_error=on_error,
                resume=resume and not append,
                workers=workers,
            )
            try:
                for batch in batches:
                    for entry in batch:
                        file.write(json_line(entry))
                    progress("images", len(batch), total)
                    checkpoint.batch(len(batch))
                    if stop.signal:
                        break
            except Interrupted:
                pass
            except BrokenPipeError:  # the reader left; the state stays at what it surely got
                reader_left()
            except ImageError:  # --on-error stop: up to the batch before
                checkpoint.now()
                raise
            checkpoint.now()
    report(detector, stop, state, quiet)


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


def report(detector: InterNegDetector, stop: SignalGuard, state: Path | None, quiet: bool) -> None:
    """The last message; a stopped run ends with the shell's code for its signal."""
    failed = f", {detector.failed} could not be read" if detector.failed else ""
    say(f"{detector.position} images{failed}; bank {detector.bank_size}", quiet)
    if stop.signal:
        kept = f"; the state is in {state}" if state else ""
        say(f"stopped by {signal.Signals(stop.signal).name}{kept}")
        raise SystemExit(128 + stop.signal)


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


def open_input(source: str) -> tuple[Iterator[str], int | None]:
    """Paths of the stream and how many there are; None for standard input.

    Raises:
        DetectorError: nothing there, or an empty folder or list.
    """
    if source == "-":
        return _lines(sys.stdin.buffer), None
    path = Path(source).expanduser()
    if path.is_dir():
        paths = [str(file) for file in image_files(path)]
        if not paths:
            raise DetectorError(f"there is no file in the folder {path}")
        return iter(paths), len(paths)
    if not path.is_file():
        raise DetectorError(f"there is no folder, image or list at {path}")
    from PIL import Image

    Image.init()
    if path.suffix.lower() in Image.EXTENSION:
        return iter([str(path)]), 1
    if path.stat().st_size > MAX_BYTES:
        raise DetectorError(f"{path} is too large for a list of paths; pipe it in (-) instead")
    with open(path, "rb") as file:
        head = file.read(4096)
        _refuse_utf16(head)
        if b"\0" in head:
            raise DetectorError(f"{path} is neither an image nor a text file of paths")
        file.seek(0)
        paths = list(_lines(file))
    if not paths:
        raise DetectorError(f"the list {path} is empty")
    return iter(paths), len(paths)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Paths, one a line; a byte order mark is no part of the first.

    Raises:
        DetectorError: a line longer than any path.
    """
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise DetectorError(
                f"line {number} of the paths is longer than {LONGEST_LINE} bytes, and no path is; "
                "give one path a line"
            )
        if number == 1:
            _refuse_utf16(line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if line := line.rstrip(b"\r\n"):
            yield os.fsdecode(line)


def _refuse_utf16(head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DetectorError("the list of paths is UTF-16 text; save it as UTF-8")


def parse_protections(text: str) -> dict[str, Any]:
    """`diversity=0.95,max_age=5000` -> a mapping.

    Raises:
        SettingsError: a part without a value, or with one that is no YAML.
    """
    out = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise SettingsError(f"--protect: {part!r} has no value; write name=value,name=value")
        out[name.strip()] = parse_yaml_value(value, f"--protect {part!r}", SettingsError)
    return out


def find_gamma(
    detector: InterNegDetector,
    gamma: float | None,
    folder: Path | None,
    tpr: float,
    given: Path,
    progress: Progress,
) -> None:
    """Sets gamma: as given, or from ID images that are not the proxies'.

    Raises:
        DetectorError: there is no such image.
    """
    if gamma is not None:
        detector.gamma = gamma
        if detector.protections.watches:
            raise SettingsError(
                "id_guard and recalibrate need calibration images: leave --gamma out"
            )
        return
    if folder is not None:
        detector.calibrate(folder, tpr, progress=progress)
        return
    sources, _ = labelled_images(given, detector.class_names)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*made the image proxies.*")
            detector.calibrate(sources, tpr, progress=progress)
    except DetectorError:
        raise DetectorError(
            f"all images of {given} made the image proxies, and gamma must not rest on them: give "
            "other ID images with --calibrate DIR, lower --images-per-class, or give --gamma"
        ) from None


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


class Interrupted(Exception):
    """A signal came while the program waited for input."""


class SignalGuard:
    """SIGTERM and Ctrl-C end the run after the batch in hand; a second Ctrl-C ends it at once."""

    def __init__(self):
        self.signal = 0
        self.waiting = False

    def __enter__(self) -> SignalGuard:
        self.before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread
                self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
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


command = with_settings(score, methods=["interneg"], defaults=APPLICATION_DEFAULTS)

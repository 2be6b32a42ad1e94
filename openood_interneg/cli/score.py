"""`interneg score`: images of any origin, one JSON line each."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from openood_interneg.application.detector import APPLICATION_DEFAULTS, InterNegDetector
from openood_interneg.application.inputs import labelled_images
from openood_interneg.application.state import claimed, refuse_differences
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
from openood_interneg.cli.options import plan_interneg, with_settings
from openood_interneg.cli.score_input import open_input
from openood_interneg.cli.score_output import (
    Checkpointer,
    check_overwriting,
    json_line,
    open_output,
)
from openood_interneg.cli.signals import Interrupted, SignalGuard
from openood_interneg.cli.workspace import DEFAULT_BACKBONE, check_out_file
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.data.encode import Progress
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.precision import Precision as PrecisionName
from openood_interneg.vlm.text_files import parse_yaml_value


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
    out: Annotated[
        Path | None, typer.Option(help="File for the JSON lines; default: stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out if it is there.")] = False,
    backbone: BackboneName = None,
    pretrained: Pretrained = None,
    gamma: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Images that score below are unknown; default: calibrate."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="ID images for gamma; default: those of --id-images made no proxy."),
    ] = None,
    tpr: Annotated[float, typer.Option(help="Share of ID images that gamma lets pass.")] = 0.95,
    state: Annotated[
        Path | None,
        typer.Option(help="File that keeps the bank and the position; resumed if there."),
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
    cache_dir: Annotated[Path | None, typer.Option(help="Where text features are kept.")] = None,
    no_cache: NoCache = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No messages.")] = False,
) -> None:
    """Score images: a class name or "unknown" for each, as one JSON line.

    A line holds position, file, prediction, label (the nearest class), score and unknown, or
    error. With --state a run that was stopped goes on where it was, with the scores that the
    unbroken run would have given; --out is cut to where the state was written.
    """
    _, chosen = plan_interneg(settings, config, preset, APPLICATION_DEFAULTS)
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
        precision=cast(PrecisionName, precision),  # which the backbone refuses if unknown
        preprocess=preprocess,
        batch_size=batch_size,
        protections=protections,
        limits=ImageLimits(exif=exif, max_pixels=max_pixels),
        cache=False if no_cache else cache_dir or True,
        **as_mapping(chosen),
    )
    with claimed(state), progress_bars(quiet) as progress:
        resume = state is not None and state.exists()
        if state is not None and resume:
            detector.load(state, class_names=classes, id_images=id_images)
            threshold: dict[str, tuple[float | None, float]] = {"tpr": (detector.tpr, tpr)}
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
                on_error=cast(Literal["skip", "stop"], on_error),
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


def report(detector: InterNegDetector, stop: SignalGuard, state: Path | None, quiet: bool) -> None:
    """The last message; a stopped run ends with the shell's code for its signal."""
    failed = f", {detector.failed} could not be read" if detector.failed else ""
    say(f"{detector.position} images{failed}; bank {detector.bank_size}", quiet)
    if stop.signal:
        kept = f"; the state is in {state}" if state else ""
        say(f"stopped by {signal.Signals(stop.signal).name}{kept}")
        raise SystemExit(128 + stop.signal)


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


command = with_settings(score, methods=["interneg"], defaults=APPLICATION_DEFAULTS)

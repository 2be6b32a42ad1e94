"""`interneg score`: images of any origin, one JSON line each."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from openood_interneg.application.detector import DEFAULT_METHOD, OODDetector
from openood_interneg.application.inputs import names_in
from openood_interneg.application.needs import application_defaults
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
from openood_interneg.cli.options import plan_methods, read_config, with_settings
from openood_interneg.cli.score_input import open_input
from openood_interneg.cli.score_output import (
    Checkpointer,
    check_format,
    check_overwriting,
    open_output,
)
from openood_interneg.cli.signals import Interrupted, SignalGuard
from openood_interneg.cli.workspace import DEFAULT_BACKBONE, check_out_file
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.data.encode import Progress
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.registry import get_method
from openood_interneg.settings import SettingsError, as_mapping, merged
from openood_interneg.vlm.precision import Precision as PrecisionName
from openood_interneg.vlm.text_files import parse_yaml_value


def score(
    settings: dict,
    images: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Folder, image, text file with one path a line or image list, table (.csv, "
            ".parquet), archive (.tar), or - for paths on standard input.",
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Text file with one class name a line, or a known set (cifar100); default: "
            "those of --id-images."
        ),
    ] = None,
    id_images: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one subfolder of ID images per class, or an image list (.txt), table "
            "(.csv, .parquet) or archive (.tar) with labels, for methods that need them and to "
            "calibrate."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Name of the method (interneg methods).")
    ] = DEFAULT_METHOD,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results, by its suffix: .jsonl (JSON lines), .csv or .parquet; "
            "default: JSON lines on stdout."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out if it is there.")] = False,
    backbone: BackboneName = None,
    pretrained: Pretrained = None,
    gamma: Annotated[
        float | None,
        typer.Option(
            help="Fixed threshold: images that score below are unknown; default: calibrate."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="ID images that set the threshold as the stream goes on; default: those of "
            "--id-images that the method was not fitted to."
        ),
    ] = None,
    tpr: Annotated[float, typer.Option(help="Share of the calibration images that pass.")] = (0.95),
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Without calibration, for methods with p-values: p <= alpha is unknown. "
            "Default: 0.05."
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="File that keeps memory and position; a run continues from it."),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Images between two writes of --state.")
    ] = 1000,
    append: Annotated[
        bool, typer.Option("--append", help="DIR holds new images, which follow those of --state.")
    ] = False,
    on_error: Annotated[str, typer.Option(help="Unreadable images: skip or stop.")] = "skip",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    protect: Annotated[
        str,
        typer.Option(
            help="Protections of InterNeg's bank, as diversity=0.95; several, with commas."
        ),
    ] = "",
    exif: Annotated[
        bool, typer.Option("--exif/--no-exif", help="Turn photographs upright, as EXIF says.")
    ] = True,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Images with more pixels are errors.")
    ] = ImageLimits.max_pixels,
    bits: Annotated[
        int, typer.Option(min=8, max=16, help="Bits that 16-bit pictures really use.")
    ] = ImageLimits.bits,
    urls: Annotated[
        str, typer.Option(help="Schemes of URLs that may be opened: https,s3; default: none.")
    ] = "",
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

    A line holds position, file, prediction, label (the nearest class), score (high = ID), unknown,
    and gamma (the threshold) and p if the method has them; or error. Without a threshold (no ID
    images, no --gamma, a method without p-values) prediction and unknown are null. With --state a
    run that was stopped continues with the scores of an unbroken run; --out is cut to where the
    state was written.
    """
    row = get_method(method)
    defaults = application_defaults(row, merged(file=read_config(config), given=settings))
    ((_, chosen),) = plan_methods(row.name, settings, config, preset, defaults)
    if classes is None and id_images is None:
        raise SettingsError(
            "there are no class names; give --classes, or --id-images whose subfolders name them"
        )
    if gamma is not None and calibrate is not None:
        raise SettingsError("--gamma and --calibrate contradict each other; give one")
    if on_error not in ("skip", "stop"):
        raise SettingsError(f"--on-error is {on_error!r}; choose one of skip, stop")
    if append and state is None:
        raise SettingsError("--append goes on from a state; give --state FILE")
    if state is not None and out is not None and os.path.realpath(state) == os.path.realpath(out):
        raise SettingsError(f"--out and --state are one file, {out}; give each its own")
    protections = parse_protections(protect)
    check_out_file(state, "--state")
    check_out_file(out, streams=True)
    check_format(out, state)
    check_overwriting(out, force, state)
    names, total = open_input(images)
    detector = OODDetector(
        backbone or DEFAULT_BACKBONE,
        row.name,
        pretrained=pretrained,
        device=device,
        precision=cast(PrecisionName, precision),  # which the backbone refuses if unknown
        preprocess=preprocess,
        batch_size=batch_size,
        gamma=gamma,
        alpha=alpha,
        protections=protections,
        limits=ImageLimits(
            exif=exif,
            max_pixels=max_pixels,
            bits=bits,
            urls=tuple(filter(None, (scheme.strip() for scheme in urls.split(",")))),
        ),
        cache=False if no_cache else cache_dir or True,
        settings={name: v for name, v in as_mapping(chosen).items() if name in row.setting_names},
    )
    names_of_classes: Any = classes
    if id_images is not None and names_of_classes is None:
        names_of_classes = names_in(id_images)
    with claimed(state), progress_bars(quiet) as progress:
        resume = state is not None and state.exists()
        if state is not None and resume:
            wanted = {"gamma": gamma} if gamma is not None else {"tpr": tpr}
            if alpha is not None:
                wanted["alpha"] = alpha
            detector.load(state, class_names=names_of_classes, id_images=id_images)
            refuse_differences(
                f"the state {state}",
                {name: (getattr(detector, name), value) for name, value in wanted.items()},
            )
        else:
            fit(detector, names_of_classes, id_images, calibrate, tpr, progress)
        judge = detector.judges
        told = "" if judge else ": scores only; give --calibrate or --gamma"
        say(f"{detector.fit_told}{told}", quiet)
        with open_output(out, detector, resume) as output, SignalGuard() as stop:
            checkpoint = Checkpointer(detector, state, output, out is not None, checkpoint_every)
            checkpoint.now()
            if resume and not append:
                say(f"resumed at image {detector.position}", quiet)
                progress("images", detector.position - detector.begun, total)
            batches = detector.stream(
                stop.watched(names),
                on_error=cast(Literal["skip", "stop"], on_error),
                resume=resume and not append,
                workers=workers,
                judge=judge,
            )
            try:
                for batch in batches:
                    for entry in batch:
                        output.write(entry)
                    progress("images", len(batch), total)
                    checkpoint.batch(batch)
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
    report(detector, checkpoint.unknown, stop, state, quiet)


def fit(
    detector: OODDetector,
    classes: Any,
    id_images: Path | None,
    calibrate: Path | None,
    tpr: float,
    progress: Progress,
) -> None:
    """Fits; where gamma is not given, calibrates with other ID images, or those that are left.

    Raises:
        DetectorError: the method looked at all of them.
    """
    by_images = detector.gamma is None and calibrate is None and id_images is not None
    # p-values tell where no image is left or alpha was given: `fit` decides.
    decided = None if by_images and detector.method.detector.has_p else by_images
    detector.fit(classes, id_images, calibrate=decided, tpr=tpr, progress=progress)
    if calibrate is not None:
        detector.calibrate(calibrate, tpr, progress=progress)


def report(
    detector: OODDetector, unknown: int, stop: SignalGuard, state: Path | None, quiet: bool
) -> None:
    """The last message; a stopped run ends with the shell's code for its signal."""
    parts = [f"{detector.position} images"]
    if detector.judges:
        parts.append(f"{unknown} unknown")
    parts.append(f"{detector.failed} could not be read")
    parts.append(detector.threshold_told)
    if detector.calibrated:
        parts.append(f"false alarms of the calibration images {detector.false_alarms():.1%}")
    if detector.bank_size:
        parts.append(f"bank {detector.bank_size}")
    say("; ".join(parts), quiet)
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


# What is named like an option of the command is set in --config.
command = with_settings(score, without=("alpha", "gamma"))

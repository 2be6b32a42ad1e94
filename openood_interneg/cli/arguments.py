"""Options that several commands share: same name, same meaning, same help everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

FOLDERS = "Your own folders, instead of --bench"
Bench = Annotated[
    str | None,
    typer.Option(
        help="Benchmark: a name, a YAML file, or a folder with id/CLASS/... and ood/SET/... "
        "Default: miniature."
    ),
]
IdFolder = Annotated[
    Path | None,
    typer.Option("--id", help="ID images, one subfolder per class.", rich_help_panel=FOLDERS),
]
OodFolders = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder of a (far) OOD set, or NAME=FOLDER; may be repeated.",
        rich_help_panel=FOLDERS,
    ),
]
NearFolders = Annotated[
    list[str] | None,
    typer.Option(help="The same for a near OOD set.", rich_help_panel=FOLDERS),
]
FolderClasses = Annotated[
    str | None,
    typer.Option(
        help="Names of the classes (a text file, or a known set such as imagenet) that the "
        "subfolders are matched to; default: the subfolders' own.",
        rich_help_panel=FOLDERS,
    ),
]
TrainFolder = Annotated[
    Path | None,
    typer.Option(
        help="ID images that methods may look at first, in subfolders like --id; default: some "
        "of --id, which are then not tested.",
        rich_help_panel=FOLDERS,
    ),
]
TrainPerClass = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Images of each class of --id that are set apart for this, at most half. Default: 16.",
        rich_help_panel=FOLDERS,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder with images_*/ and benchmark_imglist/."),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        help="ViT-B/16, RN50, ..., an open_clip model, or a checkpoint file. Default: ViT-B/16; "
        "for the benchmark miniature its own."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(help="Each method's official settings: imagenet, cifar10, cifar100."),
]
Pretrained = Annotated[
    str | None,
    typer.Option(help="Weights for --backbone: open_clip's tag, or a file."),
]
Preprocessing = Annotated[
    str, typer.Option(help="clip (the model's own) or openood_vlm (resize 256, crop 224).")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Precision = Annotated[str, typer.Option(help="Of the model: fp32, bf16, fp16; fp32+compile, ...")]
EncodeBatch = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with settings, flat or in OpenOOD's form."),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where features are kept."),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Store nothing.")]
ReadingWorkers = Annotated[int, typer.Option(min=0, help="Processes that read images.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this many images per test set.")]
FullSpectrum = Annotated[
    bool, typer.Option("--fsood", help="Count shifted ID sets (csid) as ID: full spectrum.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the table.")]


def with_parameters(
    command: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Callable[..., Any]:
    """Says, where typer looks for it, which options a command has."""
    given = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    cast(Any, command).__signature__ = inspect.Signature(given)
    command.__annotations__ = {p.name: p.annotation for p in given}
    return command

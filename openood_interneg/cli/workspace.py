"""What commands open before they work: the place of their results, benchmark, model and store."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_type_hints

from openood_interneg.cli.arguments import (
    BackboneName,
    Bench,
    CacheDir,
    DataRoot,
    Device,
    EncodeBatch,
    FolderClasses,
    FullSpectrum,
    IdFolder,
    Limit,
    NearFolders,
    NoCache,
    OodFolders,
    Precision,
    Preprocessing,
    Pretrained,
    Quiet,
    ReadingWorkers,
    TrainFolder,
    TrainPerClass,
    with_parameters,
)
from openood_interneg.cli.console import Advance, progress_bars, say, system_error, warnings_told
from openood_interneg.cli.folders import as_given, chosen_folders
from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.shared_store import DistContext, SharedStore
from openood_interneg.data.store import Store, default_root
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.precision import Precision as PrecisionName

MINIATURE = "miniature"
DEFAULT_BACKBONE = "ViT-B/16"


@dataclass(frozen=True)
class WorkspaceOptions:
    """The options of the commands that work on a benchmark, as they were given."""

    bench: Bench = None
    data_root: DataRoot = None
    id_folder: IdFolder = None
    ood: OodFolders = None
    near: NearFolders = None
    classes: FolderClasses = None
    train: TrainFolder = None
    train_per_class: TrainPerClass = None
    backbone: BackboneName = None
    pretrained: Pretrained = None
    preprocess: Preprocessing = "clip"
    device: Device = "auto"
    precision: Precision = "fp32"
    encode_batch: EncodeBatch = 128
    workers: ReadingWorkers = 0
    limit: Limit = None
    fsood: FullSpectrum = False
    cache_dir: CacheDir = None
    no_cache: NoCache = False
    quiet: Quiet = False

    @property
    def source(self) -> str:
        """The benchmark as it was given: a name, a YAML file, or folders."""
        if self.id_folder is None:
            return self.bench or MINIATURE
        return as_given(self.id_folder, self.near, self.ood, self.train)


def with_workspace(
    command: Callable[..., Any], *, without: Collection[str] = (), **instead: Any
) -> Callable[..., Any]:
    """Adds the options of `WorkspaceOptions` to a command that takes `workspace`.

    Args:
        command: of the command line.
        without: options that the command does not have; they keep their defaults.
        instead: option -> its annotation, where it says something else in this command.
    """
    signature = inspect.signature(command, eval_str=True)
    hints = get_type_hints(WorkspaceOptions, include_extras=True) | instead
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(WorkspaceOptions)
        if field.name not in without
    ]

    @functools.wraps(command)
    def wrapper(**given: Any) -> Any:
        chosen = {option.name: given.pop(option.name) for option in shared}
        return command(workspace=WorkspaceOptions(**chosen), **given)

    own = [p for p in signature.parameters.values() if p.name != "workspace"]
    return with_parameters(wrapper, [*own, *shared])


@contextmanager
def open_workspace(
    options: WorkspaceOptions, context: DistContext | None = None
) -> Iterator[tuple[Evaluation, Advance]]:
    """Opens benchmark, model and store, and shows progress while they are worked with.

    Args:
        options: of the command.
        context: of several processes that share the store; the first one draws and speaks.

    Yields:
        The evaluation of the benchmark, and the progress to report to.

    Raises:
        InternegError: a benchmark, backbone or device that is not there.
    """
    quiet = options.quiet or (context is not None and context.rank > 0)
    several = context is not None and context.size > 1
    if context is not None and several:
        if context.rank == 0:  # the miniature is drawn once
            _open_benchmark(options, quiet)
        context.wait()
    benchmark = _open_benchmark(options, quiet or several)
    backbone = open_backbone(
        options.backbone,
        options.source,
        pretrained=options.pretrained,
        device=options.device,
        precision=options.precision,
    )
    root = None if options.no_cache else options.cache_dir or default_root()
    with progress_bars(quiet) as progress:
        evaluation = Evaluation(
            benchmark,
            backbone,
            Store(root) if context is None or root is None else SharedStore(root, context),
            preprocess=backbone.preprocess.variant(options.preprocess),
            encode_batch=options.encode_batch,
            workers=options.workers,
            progress=progress,
        )
        yield evaluation, progress


def _open_benchmark(options: WorkspaceOptions, quiet: bool) -> Benchmark:
    spec = chosen_folders(
        options.bench,
        options.data_root,
        options.id_folder,
        options.near,
        options.ood,
        options.train,
        options.train_per_class,
        options.classes,
    )
    if spec is None:
        return open_benchmark(
            options.source,
            options.data_root,
            cache_dir=options.cache_dir,
            limit=options.limit,
            full_spectrum=options.fsood,
            quiet=quiet,
        )
    with warnings_told():
        benchmark = spec.read(options.limit)
    say(spec.told(benchmark), quiet)
    return benchmark.full_spectrum() if options.fsood else benchmark


def check_out_folder(path: Path | None, option: str = "--out") -> None:
    """Refuses, before any work, a folder that cannot be made or written; makes nothing.

    Raises:
        SettingsError: it is a file, or lies where nothing can be written.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{option} {path} is a file; it takes a folder")
    _check_writable(path, option)


def check_out_file(path: Path | None, option: str = "--out", *, streams: bool = False) -> None:
    """Refuses, before any work, a file that cannot be written; makes nothing.

    Args:
        streams: whether a pipe or device will do (the file is written from begin to end).

    Raises:
        SettingsError: it is a folder, or lies where nothing can be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder; it takes a file")
    if not path.exists():
        _check_writable(path.parent if not path.is_symlink() else path.resolve().parent, option)
    elif path.is_file():
        try:
            path.open("r+b").close()
        except OSError as error:
            raise SettingsError(f"{option} cannot be written: {system_error(error)}") from None
    elif not streams:
        raise SettingsError(f"{option} {path} is a device or pipe; it takes a file")


def _check_writable(folder: Path, option: str) -> None:
    """Tries the nearest folder that is there."""
    if folder.is_symlink() and not folder.exists():
        raise SettingsError(f"{option}: {folder} is a link to what is not there")
    nearest = folder.expanduser().absolute()
    while not nearest.exists() and not nearest.is_symlink() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise SettingsError(f"{option} {folder} cannot be made: {nearest} is no folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsError(
            f"{option} {folder} cannot be written ({why}); choose another place"
        ) from None


def open_benchmark(
    bench: str,
    data_root: Path | None,
    *,
    cache_dir: Path | None = None,
    limit: int | None = None,
    full_spectrum: bool = False,
    quiet: bool = False,
) -> Benchmark:
    """The benchmark of --bench; the miniature is drawn where no folder was given.

    Raises:
        BenchmarkError: unknown, or image lists that are not there.
    """
    if bench == MINIATURE and data_root is None:
        data_root = draw_miniature(cache_dir, quiet)
    return load_benchmark(bench, data_root, limit=limit, full_spectrum=full_spectrum)


def draw_miniature(cache_dir: Path | None = None, quiet: bool = False) -> Path:
    """Draws the miniature benchmark, or finds it drawn; returns its folder."""
    root = (cache_dir or default_root()) / MINIATURE
    say("drawing the miniature benchmark (or finding it drawn)", quiet)
    with progress_bars(quiet) as progress:
        write_benchmark(root, progress=lambda done, total: progress("images drawn", 1, total))
    return root


def open_backbone(
    backbone: str | None,
    bench: str | None = None,
    *,
    pretrained: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Backbone:
    """The backbone of --backbone; without one, what suits the benchmark.

    The miniature's images belong to the miniature's own backbone; all else gets the paper's.

    Raises:
        SettingsError: unknown backbone or device, weights that are not there.
    """
    name = backbone or (MINIATURE if bench == MINIATURE else DEFAULT_BACKBONE)
    return load_backbone(
        name,
        pretrained=pretrained,
        device=pick_device(device),
        precision=cast(PrecisionName, precision),  # which refuses any other
    )

"""The options that give a benchmark as folders of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from openood_interneg.data.benchmark_files import bench_folder
from openood_interneg.data.benchmark_folders import (
    TRAIN_PER_CLASS,
    FolderSpec,
    folder_spec,
    read_bench_folder,
)
from openood_interneg.settings import SettingsError


def chosen_folders(
    bench: str | None,
    data_root: Path | None,
    id_folder: Path | None,
    near: Sequence[str] | None,
    ood: Sequence[str] | None,
    train: Path | None,
    train_per_class: int | None,
    classes: str | None,
) -> FolderSpec | None:
    """The folders of --id and its companions, or of a --bench that is a folder; None for others.

    Raises:
        SettingsError: options that do not go together.
        BenchmarkError: two sets of one name, or a --bench FOLDER that is no benchmark's.
    """
    root = bench_folder(bench) if bench is not None else None
    companions = {"--ood": ood, "--near": near, "--train": train}
    given = [option for option, value in companions.items() if value]
    if id_folder is None and given:
        raise SettingsError(f"{given[0]} goes with --id FOLDER, the folder of the ID images")
    if id_folder is not None and bench is not None:
        raise SettingsError("--id and --bench each give the ID images; give one of them")
    if id_folder is None and root is None:
        if classes is not None:
            raise SettingsError(
                "--classes names the subfolders of --id FOLDER or --bench FOLDER; this benchmark "
                "names its classes itself"
            )
        if train_per_class is not None:
            raise SettingsError(
                "--train-per-class splits folders (--id FOLDER, --bench FOLDER); this benchmark's "
                "lists say which images are for proxies"
            )
        return None
    if data_root is not None:
        raise SettingsError("--data-root goes with lists of images; folders have them in them")
    per_class = TRAIN_PER_CLASS if train_per_class is None else train_per_class
    if id_folder is not None:
        sets = (_sets(ood, "--ood"), _sets(near, "--near"))
        spec = folder_spec(id_folder, *sets, train, per_class, classes)
    else:
        assert root is not None
        spec = read_bench_folder(root, per_class, classes)
    if spec.train is not None and train_per_class is not None:
        raise SettingsError(
            f"the images for proxies are those of {spec.train}; leave --train-per-class out"
        )
    return spec


def as_given(
    id_folder: Path, near: Sequence[str] | None, ood: Sequence[str] | None, train: Path | None
) -> str:
    """The options of the folders as one text, for the record of a run."""
    parts = [f"--id {id_folder}"]
    parts += [f"--near {folder}" for folder in near or ()]
    parts += [f"--ood {folder}" for folder in ood or ()]
    return " ".join(parts + ([f"--train {train}"] if train is not None else []))


def _sets(texts: Sequence[str] | None, option: str) -> Mapping[str, Path]:
    """Names and folders out of `FOLDER` and `NAME=FOLDER`."""
    out: dict[str, Path] = {}
    for text in texts or ():
        path, name = Path(text).expanduser(), ""
        if "=" in text and not path.is_dir():
            name, _, folder = text.partition("=")
            path = Path(folder).expanduser()
        name = name or path.absolute().name
        if name in out:
            raise SettingsError(
                f"two folders of {option} are named '{name}'; write {option} NAME={text}"
            )
        out[name] = path
    return out

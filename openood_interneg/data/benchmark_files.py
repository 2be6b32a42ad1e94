"""Where benchmark files are, and what the paths in them are relative to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.settings import docs_page, shipped_folder, shown
from openood_interneg.vlm.text_files import read_yaml, text_value


def configs_root() -> Path:
    """Folder of the YAML files: inside the package when installed, beside it in a checkout."""
    return shipped_folder("configs")


def list_benchmarks() -> list[str]:
    """Names of the benchmarks that ship with the package."""
    return sorted(p.name for p in (configs_root() / "datasets").iterdir() if p.is_dir())


def bench_folder(source: str | Path) -> Path | None:
    """The folder that a benchmark's source is; None for a shipped name or a YAML file."""
    path = Path(source).expanduser()
    return path if str(source) not in list_benchmarks() and path.is_dir() else None


def read_source(source: str | Path) -> tuple[dict[str, Any], Path]:
    """The blocks of a benchmark, and the file that they come from.

    Args:
        source: a shipped name or a YAML file.

    Raises:
        BenchmarkError: unknown name, no such file, or no YAML of that form.
    """
    text = str(source)
    if text.endswith((".yml", ".yaml")):
        found = [Path(text).expanduser()]
        if not found[0].exists():
            raise BenchmarkError(f"no benchmark file at {found[0]}")
    else:
        folder = configs_root() / "datasets" / text
        found = [p for p in (folder / f"{text}.yml", folder / f"{text}_ood.yml") if p.is_file()]
        if not found and bench_folder(source):
            raise BenchmarkError(
                f"{text} is a folder, and OpenOOD's interfaces take a YAML file; write one as "
                f"{docs_page('own_data.md')} says"
            )
        if not found:
            raise BenchmarkError(
                f"unknown benchmark {shown(text)}; known: {', '.join(list_benchmarks())}, or a "
                f"YAML file or a folder of your own ({docs_page('own_data.md')})"
            )
    config: dict[str, Any] = {}
    for path in found:
        config |= read_yaml(path, BenchmarkError)
    for key in ("dataset", "ood_dataset"):
        if not isinstance(config.get(key) or {}, dict):
            raise BenchmarkError(f"{found[0]}: {key} must map names to values")
    for key in ("csid", "nearood", "farood"):
        if key in config or key in (config.get("dataset") or {}):
            raise BenchmarkError(
                f"{found[0]}: '{key}' stands outside of 'ood_dataset', where nothing reads it; "
                "move it there"
            )
    return config, found[0]


def data_folder(origin: Path, data_root: str | Path | None = None) -> Path:
    """The folder that relative paths of a dataset YAML start from; one rule for every reader.

    The folder that was given; or else the folder of the file itself; or else, for a file in
    `configs/datasets/` (this package's, or those of a checkout of OpenOOD), `./data`.
    """
    if data_root is not None:
        return Path(data_root).expanduser()
    parents = [folder.name for folder in Path(origin).absolute().parents]
    openoods = ("datasets", "configs") in itertools.pairwise(parents)
    return Path("data") if openoods else Path(origin).parent


def resolve_path(text: str, root: Path) -> Path:
    """A path of a dataset YAML: './data/x' and 'x' are 'root/x', '/x' stays.

    Raises:
        BenchmarkError: no text.
    """
    parts = Path(text_value(text, "a path of a dataset YAML", BenchmarkError)).parts
    return root.joinpath(*(parts[1:] if parts[:1] == ("data",) else parts))

"""Dataset YAML in OpenOOD's schema: where it is, what its paths are relative to, its names.

What reads such a file, `interneg` or the plugin for OpenOOD, reads it through this module.
"""

from __future__ import annotations

import contextlib
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openood_interneg.data.classnames import KNOWN_CLASS_NAMES, check_class_names, class_names
from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.settings import shown
from openood_interneg.vlm.text_files import read_yaml, text_value

MAX_NAME_BYTES = 100  # of a set's name: file names are made of it
RESERVED_SET_NAMES = (
    *("nearood", "farood", "near mean", "far mean", "average", "mean", "std"),
    *("id", "train", "test", "csid"),
)
OOD_GROUPS = ("nearood", "farood", "csid")


def configs_root() -> Path:
    """Folder of the YAML files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_benchmarks() -> list[str]:
    """Names of the benchmarks that ship with the package."""
    return sorted(p.name for p in (configs_root() / "datasets").iterdir() if p.is_dir())


def read_source(source: str | Path) -> tuple[dict[str, Any], Path]:
    """The blocks of a benchmark, and the file that they stand in.

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
        if not found:
            raise BenchmarkError(
                f"unknown benchmark {shown(text)}; known: {', '.join(list_benchmarks())}, or a "
                "YAML file of your own (docs/own_data.md)"
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
    """What the relative paths of a dataset YAML are relative to: the one rule for every reader.

    The folder that was given; or else the folder of the file itself; or else, for a file in
    `configs/datasets/` (this package's, or those of a checkout of OpenOOD), `./data`.
    """
    if data_root is not None:
        return Path(data_root).expanduser()
    parents = [folder.name for folder in Path(origin).absolute().parents]
    openoods = ("datasets", "configs") in itertools.pairwise(parents)
    return Path("data") if openoods else Path(origin).parent


def place(text: str, root: Path) -> Path:
    """A path of a dataset YAML: './data/x' and 'x' are 'root/x', '/x' stays.

    Raises:
        BenchmarkError: no text.
    """
    parts = Path(text_value(text, "a path of a dataset YAML", BenchmarkError)).parts
    return root.joinpath(*(parts[1:] if parts[:1] == ("data",) else parts))


@contextlib.contextmanager
def schema_errors(origin: Path) -> Iterator[None]:
    """A key that is absent, or of another kind, is an error about the file it is absent from."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"{origin} is not a benchmark in OpenOOD's schema: {type(error).__name__}: {error}; "
            "see docs/own_data.md for the keys"
        ) from error


def split_paths(block: Any, what: str) -> tuple[str, str]:
    """(data_dir, imglist_pth) of a set's block, as they are written.

    Raises:
        BenchmarkError: no mapping, or one of the two is missing or no text; `what` names the block.
    """
    if not isinstance(block, Mapping):
        raise BenchmarkError(
            f"{what} is {shown(block)}; it must be {{data_dir: FOLDER, imglist_pth: FILE}}"
        )
    for key in ("data_dir", "imglist_pth"):
        if key not in block:
            raise BenchmarkError(f"{what} has no {key}; see docs/own_data.md")
    folder, file = (
        text_value(block[key], f"{key} of {what}", BenchmarkError)
        for key in ("data_dir", "imglist_pth")
    )
    return folder, file


def group_sets(config: Mapping[str, Any], group: str, origin: str | Path) -> dict[str, Any]:
    """The blocks of the sets of `ood_dataset`'s group 'nearood', 'farood' or 'csid', by name.

    Raises:
        BenchmarkError: a group without its list `datasets`, a set in it that has no block, or a
            name that is no text.
    """
    ood = config.get("ood_dataset") or {}
    for key, block in ood.items():
        if isinstance(block, Mapping) and "datasets" in block and key not in OOD_GROUPS:
            raise BenchmarkError(
                f"{origin}: ood_dataset has a group {shown(key)}, which nothing reads; the groups "
                f"are {', '.join(OOD_GROUPS)}"
            )
    block = ood.get(group)
    if not block:
        return {}
    what = f"{origin}: {group}"
    names = block.get("datasets") if isinstance(block, Mapping) else None
    if not isinstance(names, (list, tuple)):
        raise BenchmarkError(
            f"{what}: datasets is {shown(names)}; it must be a list of names in brackets: "
            "datasets: [mnist]"
        )
    for name in names:
        text_value(name, f"{what}: the name of a set", BenchmarkError)
        if name not in block:
            raise BenchmarkError(f"{what} lists '{name}', but has no block of that name")
    return {name: block[name] for name in names}


def declared_class_names(block: Mapping[str, Any], origin: Path) -> tuple[str, ...]:
    """The class names of a `dataset` block: a list, a file beside the YAML, or a known set.

    Raises:
        BenchmarkError: none of these, or not as many as num_classes says.
        ClassNameError: names that `check_class_names` refuses.
    """
    source = block.get("class_names", block.get("name"))
    if isinstance(source, (list, tuple)):
        names = check_class_names(source, source=f"{origin}: class_names")
    elif isinstance(source, str) and source in KNOWN_CLASS_NAMES:
        names = class_names(source)
    elif isinstance(source, str) and source and (origin.parent / source).exists():
        names = class_names(origin.parent / source)
    else:
        raise BenchmarkError(
            f"{origin}: class_names is {shown(source)}; give a list, a text file beside the YAML, "
            f"or one of {', '.join(KNOWN_CLASS_NAMES)}"
        )
    wanted = block.get("num_classes")
    if wanted is not None and (isinstance(wanted, bool) or wanted != len(names)):
        raise BenchmarkError(
            f"{origin}: num_classes is {shown(wanted)}, but there are {len(names)} class names"
        )
    return names


def check_set_names(id_names: str | Iterable[str], ood_names: Iterable[str]) -> None:
    """Every OOD set of a benchmark has a name of its own: rows, means and files go by it.

    Upper and lower case are one, as some file systems take them.

    Args:
        id_names: the name, or names, of the ID set. ood_names: of all OOD sets, near and far.

    Raises:
        BenchmarkError: a name that no file can have; two of one name, one named as the ID set, or
            as something that tables print.
    """
    id_names = [id_names] if isinstance(id_names, str) else list(id_names)
    ood_names = list(ood_names)
    for name in (*id_names, *ood_names):
        _check_spelling(name)
    taken = {_plain_name(name): f"the ID set '{name}'" for name in id_names}
    taken |= {name: f"'{name}', a name that tables and records need" for name in RESERVED_SET_NAMES}
    for name in ood_names:
        plain = _plain_name(name)
        if plain in taken:
            raise BenchmarkError(
                f"the OOD set '{name}' has the name of {taken[plain]}; their figures could not be "
                "told apart. Give every set a name of its own"
            )
        taken[plain] = f"another OOD set, '{name}'"


def _plain_name(name: str) -> str:
    return unicodedata.normalize("NFKC", str(name)).casefold().strip()


def _check_spelling(name: Any) -> None:
    """Files are named after a set, so that its name must not lead anywhere else."""
    text_value(name, "the name of a data set", BenchmarkError)
    wrong = None
    if not name.isprintable():
        wrong = "has a character that cannot be printed"
    elif any(sign in name for sign in "/\\"):
        wrong = "has a '/' or '\\'"
    elif name.strip(" .") != name:
        wrong = "begins or ends with a dot or a space"
    elif len(name.encode()) > MAX_NAME_BYTES:
        wrong = f"is longer than {MAX_NAME_BYTES} bytes"
    if wrong:
        raise BenchmarkError(
            f"the data set's name {shown(name)} {wrong}; files are named after it, so write a "
            "short plain name"
        )

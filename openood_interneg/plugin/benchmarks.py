"""Benchmarks of this package and of the user, in the table of OpenOOD's evaluation API."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.benchmark_files import (
    configs_root,
    data_folder,
    list_benchmarks,
    read_source,
)
from openood_interneg.data.benchmark_yaml import BenchmarkSpec, parse_spec, schema_errors
from openood_interneg.data.image_lists import BenchmarkError, check_images, read_image_list
from openood_interneg.plugin.network import known_class_names, name_class_names
from openood_interneg.settings import docs_page, shown
from openood_interneg.vlm.preprocess import CLIP_MEAN, CLIP_STD

GROUPS = {"near": "nearood", "far": "farood"}  # OpenOOD's evaluation API -> its YAML files


@dataclass(frozen=True)
class Registered:
    """A benchmark as OpenOOD's tables want it.

    Attributes:
        spec: what its file says.
        root: what relative paths are relative to; None: the `data_root` of the evaluator.
    """

    spec: BenchmarkSpec
    root: Path | None

    @property
    def name(self) -> str:
        """The name under which `Evaluator(net, id_name=name)` finds it."""
        return self.spec.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names in label order."""
        return self.spec.class_names

    @property
    def origin(self) -> Path:
        """The file that it was read from."""
        return self.spec.origin

    @property
    def info(self) -> dict[str, Any]:
        """The entry for `DATA_INFO`."""
        return self.info_below(self.root or Path())

    def info_below(self, root: Path) -> dict[str, Any]:
        """The entry for `DATA_INFO` with paths below a folder."""

        def split(block: Any, what: str) -> dict[str, str]:
            folder, file = self.spec.paths(block, what, root)
            return {"data_dir": str(folder), "imglist_path": str(file)}

        def group(name: str) -> dict[str, Any]:
            sets = self.spec.groups[name]
            return {"datasets": list(sets)} | {n: split(b, n) for n, b in sets.items()}

        info: dict[str, Any] = {
            "num_classes": len(self.class_names),
            "id": {name: split(block, name) for name, block in self.spec.splits.items()},
            "csid": group("csid"),
            "ood": {short: group(name) for short, name in GROUPS.items()},
        }
        if self.spec.ood_val is not None:
            info["ood"]["val"] = split(self.spec.ood_val, "ood_dataset.val")
        return info

    def image_lists(self) -> list[str]:
        """Paths of all image lists, as written in the entry."""
        return image_lists(self.info)

    def same(self, other: Registered) -> bool:
        """Whether both are one benchmark: the same sets of the same classes at the same place."""
        return (self.info, self.class_names) == (other.info, other.class_names)


def image_lists(info: Mapping[str, Any]) -> list[str]:
    """Paths of all image lists of an entry of `DATA_INFO`: OpenOOD opens every one."""
    groups = [info["id"], info.get("csid") or {}, *(info["ood"][g] for g in GROUPS)]
    if "val" in info["ood"]:
        groups.append({"val": info["ood"]["val"]})
    return [
        split["imglist_path"]
        for group in groups
        for name, split in group.items()
        if isinstance(split, Mapping) and name in group.get("datasets", group)
    ]


def shipped() -> list[str]:
    """Names of the benchmarks in configs/datasets."""
    folder = configs_root() / "datasets"
    return [name for name in list_benchmarks() if any((folder / name).glob("*.yml"))]


def read_entry(source: str | Path, data_root: str | Path | None = None) -> Registered:
    """Reads one dataset YAML, a shipped name or a file of the user's.

    The file is the one that `interneg eval --bench` and main.py take, under the same checks;
    blocks `dataset` (train, val, test) and `ood_dataset` (val, nearood, farood, csid). Its image
    lists are read when an evaluator is made.

    Args:
        data_root: as for `interneg eval`; without it a shipped benchmark is below the
            evaluator's `data_root`, a file of your own describes images in its folder.

    Raises:
        BenchmarkError: unknown name, unreadable file, missing keys, sets that share a name.
    """
    config, origin = read_source(source)
    spec = parse_spec(config, origin.absolute())
    root: Path | None = data_folder(spec.origin, data_root)
    if data_root is None and root == Path("data"):  # a file in OpenOOD's own layout
        root = None
    entry = Registered(spec, root.absolute() if root is not None else None)
    with schema_errors(spec.origin):
        _ = entry.info
    return entry


def schema_of(name: str, info: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """An entry of `DATA_INFO` in the schema of dataset YAMLs, so that one reader checks both."""

    def split(block: Mapping[str, Any]) -> dict[str, str]:
        return {"data_dir": block["data_dir"], "imglist_pth": block["imglist_path"]}

    def group(block: Mapping[str, Any]) -> dict[str, Any]:
        names = list(block["datasets"])
        return {"datasets": names} | {n: split(block[n]) for n in names}

    ood = {long: group(info["ood"][short]) for short, long in GROUPS.items()}
    if (info.get("csid") or {}).get("datasets"):
        ood["csid"] = group(info["csid"])
    return {
        "dataset": {
            "name": name,
            "class_names": list(class_names),
            "num_classes": info["num_classes"],
            **{s: split(block) for s, block in info["id"].items()},
        },
        "ood_dataset": ood,
    }


def look_for_data(
    name: str, info: Mapping[str, Any], data_root: str | Path, splits: Sequence[str] = ()
) -> Benchmark:
    """Reads a benchmark's lists as `interneg eval` does, and looks for the images.

    Args:
        name: of the benchmark.
        info: its entry in `DATA_INFO`.
        data_root: of the evaluator.
        splits: ID splits, beside `test`, whose images will all be read.

    Raises:
        BenchmarkError: naming the lists, or the images, that are not there; labels that are not
            those of the classes; lists that OpenOOD's loaders cannot read.
    """
    lists = [Path(data_root, path) for path in image_lists(info)]
    missing = [str(path) for path in lists if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise BenchmarkError(
            f"benchmark '{name}' lacks the image lists {', '.join(missing[:5])}{more}; point "
            f"data_root (here '{data_root}') to the folder that holds OpenOOD's data, or see "
            f"{docs_page('benchmarks.md')} for where they come from"
        )
    names = known_class_names(name) or [f"class {i}" for i in range(int(info["num_classes"]))]
    origin = Path(f"benchmark '{name}'")
    benchmark = parse_spec(schema_of(name, info, names), origin).read(data_root)
    benchmark.check()
    for split in splits:
        block = info["id"].get(split)
        if block is not None:
            folder = Path(data_root, block["data_dir"])
            check_images(
                read_image_list(Path(data_root, block["imglist_path"]), folder, f"{name} {split}")
            )
    for path in lists:
        check_openood_reads(path)
    return benchmark


def check_openood_reads(path: Path) -> None:
    """Refuses an image list that we read and OpenOOD's loaders do not.

    Raises:
        BenchmarkError: a byte order mark, an empty line, or a space in an image's name.
    """
    raw = path.read_bytes()
    if raw.startswith(codecs.BOM_UTF8):
        raise BenchmarkError(
            f"{path} begins with a byte order mark, which OpenOOD takes for a part of the first "
            "image's name; save it as plain UTF-8, or use `interneg eval`"
        )
    for number, line in enumerate(raw.splitlines(), 1):
        if line.rstrip().count(b" ") != 1:
            found = shown(line.decode("utf-8", "replace"))
            raise BenchmarkError(
                f"{path}, line {number}: OpenOOD reads one name without spaces, one space and a "
                f"label, and finds {found}; rename the file or take the line out, or use "
                "`interneg eval`"
            )


def add_to_tables(entry: Registered, datasets: Any, preprocessor: Any, info: Any) -> None:
    """Puts a benchmark into OpenOOD's module-level tables.

    Args:
        entry: the benchmark.
        datasets: the module `openood.evaluation_api.datasets`.
        preprocessor: the module `openood.evaluation_api.preprocessor`.
        info: `openood.postprocessors.info`, where methods look the number of classes up.
    """
    datasets.DATA_INFO[entry.name] = entry.info
    datasets.benchmarks_dict[entry.name] = []
    preprocessor.default_preprocessing_dict.setdefault(
        entry.name,
        {"pre_size": 224, "img_size": 224, "normalization": [list(CLIP_MEAN), list(CLIP_STD)]},
    )
    info.num_classes_dict[entry.name] = len(entry.class_names)
    name_class_names(entry.name, entry.class_names)


_looked = False


@contextlib.contextmanager
def data_is_there() -> Iterator[None]:
    """Inside the block OpenOOD's `data_setup` does nothing: the data has been checked already."""
    global _looked
    before, _looked = _looked, True
    try:
        yield
    finally:
        _looked = before


def checked_setup(original: Callable, ours: Mapping[str, Registered]) -> Callable:
    """OpenOOD's `data_setup`, which downloads; for our benchmarks it only looks at the disk."""

    def data_setup(data_root: str, id_data_name: str) -> Any:
        if _looked:
            return None
        entry = ours.get(id_data_name)
        if entry is None:
            return original(data_root, id_data_name)
        look_for_data(id_data_name, entry.info, data_root)
        return None

    return data_setup

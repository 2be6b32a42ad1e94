"""The reader of benchmark files: YAML in OpenOOD's schema.

A benchmark is one YAML file (or OpenOOD's pair of them) with the blocks `dataset` (train, val,
test) and `ood_dataset` (val, nearood, farood, csid). `interneg eval`, the plugin for OpenOOD and
its main.py all read such files as a `BenchmarkSpec`, under the same checks.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.data.benchmark import Benchmark, check_set_names
from openood_interneg.data.benchmark_files import (
    bench_folder,
    data_folder,
    read_source,
    resolve_path,
)
from openood_interneg.data.benchmark_folders import read_bench_folder
from openood_interneg.data.classnames import KNOWN_CLASS_NAMES, check_class_names, class_names
from openood_interneg.data.image_lists import (
    BenchmarkError,
    ImageList,
    check_labels,
    check_ood_labels,
    read_image_list,
)
from openood_interneg.settings import docs_page, shown
from openood_interneg.vlm.text_files import text_value

ID_SPLITS = ("train", "val", "test")
OOD_GROUPS = ("nearood", "farood", "csid")


def load_benchmark(
    source: str | Path,
    data_root: str | Path | None = None,
    *,
    limit: int | None = None,
    full_spectrum: bool = False,
) -> Benchmark:
    """Reads a benchmark.

    Args:
        source: a shipped name (`cifar10`, `realbench10`, ...), a YAML file of your own, or a folder
            with `id/CLASS/...` and `ood/SET/...` (see `read_bench_folder`).
        data_root: what the YAML's paths are relative to, and what a leading `./data` in them
            stands for; by default `./data`, for a file of your own the file's folder.
        limit: at most this many images of each test and OOD set, drawn evenly from the list.
        full_spectrum: count the covariate-shifted sets (`csid`) as ID. Without it they are left
            out, and a warning says so.

    Raises:
        BenchmarkError: unknown name, unreadable YAML, absent or malformed image list, labels
            that do not fit the class names, no covariate-shifted set for the full spectrum.
        ClassNameError: class names that cannot be told apart, or are no text.
    """
    folder = bench_folder(source)
    if folder is not None:
        if data_root is not None:
            raise BenchmarkError(
                f"{folder} is a folder with the images in it, so a data root has no meaning; leave "
                "it out"
            )
        own = read_bench_folder(folder).read(limit)
        return own.full_spectrum() if full_spectrum else own
    spec = read_spec(source)
    benchmark = spec.read(data_root, limit=limit, csid=full_spectrum)
    if full_spectrum:
        return benchmark.full_spectrum()
    left_out = ", ".join(spec.groups["csid"])
    if left_out:
        warnings.warn(
            f"the covariate-shifted sets of {spec.origin} (csid: {left_out}) are left out: the "
            "figures are those of the test set alone; --fsood evaluates the full spectrum",
            stacklevel=2,
        )
    return benchmark


def read_spec(source: str | Path) -> BenchmarkSpec:
    """What a benchmark file says, without the image lists that it points to.

    Args:
        source: a shipped name or a YAML file.

    Raises:
        BenchmarkError: unknown name, unreadable YAML, missing keys, sets that share a name.
        ClassNameError: class names that cannot be told apart, or are no text.
    """
    return parse_spec(*read_source(source))


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark as its file describes it; no image list has been read.

    Attributes:
        name: as tables print it.
        class_names: C names in label order.
        origin: the file, for messages and as what paths are relative to.
        splits: blocks of the ID splits that there are, of train, val and test.
        groups: blocks of the OOD sets, by group (nearood, farood, csid) and name.
        ood_val: block of the OOD validation set, or None.
    """

    name: str
    class_names: tuple[str, ...]
    origin: Path
    splits: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    ood_val: Any = None

    def paths(self, block: Any, what: str, root: Path) -> tuple[Path, Path]:
        """Folder of the images and file of the list that a set's block names.

        Args:
            block: of the set.
            what: names the block in messages.
            root: what relative paths are relative to.

        Raises:
            BenchmarkError: a path is missing or no text.
        """
        folder, file = split_paths(block, f"{self.origin}: {what}")
        return resolve_path(folder, root), resolve_path(file, root)

    def read(
        self,
        data_root: str | Path | None = None,
        *,
        limit: int | None = None,
        csid: bool = True,
    ) -> Benchmark:
        """Reads the image lists.

        Args:
            data_root: as for `load_benchmark`.
            limit: as for `load_benchmark`.
            csid: False leaves out the covariate-shifted sets and their image lists.

        Raises:
            BenchmarkError: absent or malformed image list, labels that do not fit.
        """
        root = data_folder(self.origin, data_root)

        def images(block: Any, name: str) -> ImageList:
            folder, file = self.paths(block, f"the block of '{name}'", root)
            return read_image_list(file, folder, name)

        def group(name: str) -> tuple[ImageList, ...]:
            return tuple(images(b, n).evenly(limit) for n, b in self.groups[name].items())

        with schema_errors(self.origin):
            train = images(self.splits["train"], self.name) if "train" in self.splits else None
            near, far = group("nearood"), group("farood")
            shifted = group("csid") if csid else ()
            test = images(self.splits["test"], self.name).evenly(limit)
            benchmark = Benchmark(self.name, self.class_names, train, test, near, far, shifted)
        for labelled in (train, test, *shifted):
            check_labels(labelled, len(self.class_names))
        for unlabelled in benchmark.ood:
            check_ood_labels(unlabelled)
        return benchmark


def parse_spec(config: Mapping[str, Any], origin: Path) -> BenchmarkSpec:
    """`read_spec` of blocks that were read already.

    Args:
        config: the blocks `dataset` and `ood_dataset`.
        origin: the file that they come from.

    Raises:
        BenchmarkError: missing keys, sets that share a name.
        ClassNameError: class names that cannot be told apart, or are no text.
    """
    with schema_errors(origin):
        block = config.get("dataset")
        if not block or "test" not in block:
            raise BenchmarkError(f"{origin} has no 'dataset' block with a 'test' entry")
        if "name" not in block:
            raise BenchmarkError(f"{origin}: the block 'dataset' has no name")
        name = text_value(block["name"], f"{origin}: dataset.name", BenchmarkError)
        names = declared_class_names(block, origin)
        # Before any image list is read: a name may be what is wrong with its path.
        groups = {group: group_sets(config, group, origin) for group in OOD_GROUPS}
        if not groups["nearood"] and not groups["farood"]:
            raise BenchmarkError(f"{origin} names no OOD set (ood_dataset: nearood, farood)")
        check_set_names(name, [set_ for group in groups.values() for set_ in group])
        return BenchmarkSpec(
            name=name,
            class_names=names,
            origin=origin,
            splits={split: block[split] for split in ID_SPLITS if split in block},
            groups=groups,
            ood_val=(config.get("ood_dataset") or {}).get("val"),
        )


@contextlib.contextmanager
def schema_errors(origin: Path) -> Iterator[None]:
    """A key that is absent, or of another kind, is an error about the file it is absent from."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"{origin} is not a benchmark in OpenOOD's schema: {type(error).__name__}: {error}; "
            f"see {docs_page('own_data.md')} for the keys"
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
            raise BenchmarkError(f"{what} has no {key}; see {docs_page('own_data.md')}")
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

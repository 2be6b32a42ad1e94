"""Benchmarks in OpenOOD's terms: ID training and test images, and OOD sets, near and far.

A benchmark is one YAML file (or OpenOOD's pair of them) with the blocks `dataset` (train, test)
and `ood_dataset` (nearood, farood, csid). `benchmark_files` says how such a file is read and
`image_lists` what it points to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openood_interneg.data.benchmark_yaml import (
    RESERVED_SET_NAMES,
    check_set_names,
    configs_root,
    data_folder,
    declared_class_names,
    group_sets,
    list_benchmarks,
    place,
    read_source,
    schema_errors,
    split_paths,
)
from openood_interneg.data.classnames import check_class_names
from openood_interneg.data.image_lists import (
    BenchmarkError,
    ImageList,
    check_images,
    check_labels,
    check_ood_labels,
    joined,
    read_image_list,
)
from openood_interneg.vlm.text_files import text_value

__all__ = [
    "RESERVED_SET_NAMES",
    "Benchmark",
    "BenchmarkError",
    "ImageList",
    "check_images",
    "check_labels",
    "check_ood_labels",
    "check_set_names",
    "configs_root",
    "data_folder",
    "declared_class_names",
    "group_sets",
    "list_benchmarks",
    "load_benchmark",
    "place",
    "read_benchmark",
    "read_image_list",
    "read_source",
    "schema_errors",
    "split_paths",
]


@dataclass(frozen=True)
class Benchmark:
    """ID training and test images, and OOD sets, near and far.

    Attributes:
        name: as tables print it. class_names: C names in label order.
        train: labelled ID images for the proxies, or None.
        test: ID test images. near, far: OOD sets.
        csid: ID sets under covariate shift (OpenOOD's full spectrum). They are no sets of their
            own in the figures: `full_spectrum` counts them as ID.

    Raises:
        BenchmarkError: two sets of one name, or an OOD set with a name that tables need.
        ClassNameError: class names that `check_class_names` refuses.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageList | None
    test: ImageList
    near: tuple[ImageList, ...]
    far: tuple[ImageList, ...]
    csid: tuple[ImageList, ...] = ()

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        check_set_names((self.name, self.test.name), [images.name for images in self.ood])

    @property
    def ood(self) -> tuple[ImageList, ...]:
        """All OOD sets, near ones first."""
        return self.near + self.far

    def full_spectrum(self) -> Benchmark:
        """The benchmark as OpenOOD's full-spectrum evaluation takes it: ID is the test set and all
        covariate-shifted sets together.

        Raises:
            BenchmarkError: the benchmark has no covariate-shifted set.
        """
        if not self.csid:
            raise BenchmarkError(
                f"benchmark '{self.name}' has no covariate-shifted ID set (ood_dataset: csid), so "
                "there is no full spectrum to evaluate"
            )
        name = f"{self.name}-fsood"
        return replace(self, name=name, test=joined(name, (self.test, *self.csid)), csid=())

    def check(self, chosen_train: ImageList | None = None) -> None:
        """Looks for every image before any work starts.

        Args:
            chosen_train: the training images that will be read (not all of them are).

        Raises:
            BenchmarkError: listing the first 10 missing files and how many there are.
        """
        sets = [self.test, *self.ood] + ([chosen_train] if chosen_train is not None else [])
        for images in sets:
            check_images(images)


def load_benchmark(
    source: str | Path,
    data_root: str | Path | None = None,
    *,
    limit: int | None = None,
    full_spectrum: bool = False,
) -> Benchmark:
    """Reads a benchmark.

    Args:
        source: a shipped name (`cifar10`, `realbench10`, ...) or a YAML file of your own.
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
    config, origin = read_source(source)
    benchmark = read_benchmark(config, origin, data_root, limit=limit, csid=full_spectrum)
    if full_spectrum:
        return benchmark.full_spectrum()
    left_out = ", ".join(group_sets(config, "csid", origin))
    if left_out:
        warnings.warn(
            f"the covariate-shifted sets of {origin} (csid: {left_out}) are left out: the figures "
            "are those of the test set alone; --fsood evaluates the full spectrum",
            stacklevel=2,
        )
    return benchmark


def read_benchmark(
    config: Mapping[str, Any],
    origin: Path,
    data_root: str | Path | None = None,
    *,
    limit: int | None = None,
    csid: bool = True,
) -> Benchmark:
    """`load_benchmark` of a YAML that was read already, with its covariate-shifted sets apart.

    Args:
        config: the YAML's blocks, and origin: its file. csid: False does without these sets, and
            without their image lists.
    """
    with schema_errors(origin):
        return _Reader(config, origin, data_root, limit).benchmark(csid)


class _Reader:
    def __init__(self, config: Mapping[str, Any], origin: Path, data_root, limit: int | None):
        self.config, self.origin, self.limit = config, origin, limit
        self.root = data_folder(origin, data_root)

    def benchmark(self, with_csid: bool) -> Benchmark:
        block = self.config.get("dataset")
        if not block or "test" not in block:
            raise BenchmarkError(f"{self.origin} has no 'dataset' block with a 'test' entry")
        if "name" not in block:
            raise BenchmarkError(f"{self.origin}: the block 'dataset' has no name")
        name = text_value(block["name"], f"{self.origin}: dataset.name", BenchmarkError)
        names = declared_class_names(block, self.origin)
        # Before any image list is read: a name may be what is wrong with its path.
        groups = {g: group_sets(self.config, g, self.origin) for g in ("nearood", "farood", "csid")}
        if not groups["nearood"] and not groups["farood"]:
            raise BenchmarkError(f"{self.origin} names no OOD set (ood_dataset: nearood, farood)")
        check_set_names(name, [*groups["nearood"], *groups["farood"], *groups["csid"]])
        train = self._images(block["train"], name, None) if "train" in block else None
        if not with_csid:
            groups["csid"] = {}
        near, far, csid = (
            tuple(self._images(part, key, self.limit) for key, part in group.items())
            for group in groups.values()
        )
        benchmark = Benchmark(
            name=name,
            class_names=names,
            train=train,
            test=self._images(block["test"], name, self.limit),
            near=near,
            far=far,
            csid=csid,
        )
        for images in (train, benchmark.test, *csid):
            if images is not None:
                check_labels(images, len(names))
        for images in benchmark.ood:
            check_ood_labels(images)
        return benchmark

    def _images(self, block: Any, name: str, limit: int | None) -> ImageList:
        folder, file = split_paths(block, f"{self.origin}: the block of '{name}'")
        images = read_image_list(place(file, self.root), place(folder, self.root), name)
        return images.evenly(limit)

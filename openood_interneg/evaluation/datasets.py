"""Benchmarks in OpenOOD's terms: image lists, folders and dataset YAML.

A benchmark is one YAML file (or OpenOOD's pair of them) with the blocks `dataset` (train, test)
and `ood_dataset` (nearood, farood). Image lists hold one `path label` per line, -1 for OOD.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from openood_interneg.settings import InternegError
from openood_interneg.vlm.classnames import KNOWN_CLASS_NAMES, class_names
from openood_interneg.vlm.text_files import read_yaml


class BenchmarkError(InternegError, ValueError):
    """A benchmark that is not there, not complete or not well-formed."""


@dataclass(frozen=True)
class ImageList:
    """Images of one set with their labels.

    Attributes:
        name: of the data set. folder: what the paths are relative to.
        paths: relative paths; they are also the images' names (and keys).
        labels: (n,) int64, -1 for OOD.
    """

    name: str
    folder: Path
    paths: tuple[str, ...]
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Path of an image."""
        return self.folder / self.paths[index]

    def subset(self, indices: Iterable[int]) -> ImageList:
        """The images at some indices, in that order."""
        indices = np.asarray(list(indices), dtype=np.int64)
        paths = tuple(self.paths[i] for i in indices)
        return ImageList(self.name, self.folder, paths, self.labels[indices])

    def missing(self) -> list[Path]:
        """Files of the list that do not exist."""
        return [path for i in range(len(self)) if not (path := self.file(i)).is_file()]

    @cached_property
    def digest(self) -> str:
        """Hex digest over folder, names, labels, sizes and modification times: for cache keys.

        The set's display name is no part of it. The folder is: unpacked archives often give
        different images the same name, size and time.
        """
        hasher = hashlib.blake2b(os.fsencode(os.path.realpath(self.folder)), digest_size=16)
        for i, (name, label) in enumerate(zip(self.paths, self.labels.tolist(), strict=True)):
            stat = os.stat(self.file(i))
            hasher.update(os.fsencode(name))
            hasher.update(f"\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return hasher.hexdigest()


@dataclass(frozen=True)
class Benchmark:
    """ID training and test images, and OOD sets, near and far.

    Attributes:
        name: as tables print it. class_names: C names in label order.
        train: labelled ID images for the proxies, or None.
        test: ID test images. near, far: OOD sets.

    Raises:
        BenchmarkError: two sets of one name, or an OOD set with a name that tables need.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageList | None
    test: ImageList
    near: tuple[ImageList, ...]
    far: tuple[ImageList, ...]

    def __post_init__(self) -> None:
        check_set_names((self.name, self.test.name), [images.name for images in self.ood])

    @property
    def ood(self) -> tuple[ImageList, ...]:
        """All OOD sets, near ones first."""
        return self.near + self.far

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


def check_images(images: ImageList) -> None:
    """Looks for every image of a list.

    Raises:
        BenchmarkError: an empty list; or the first 10 missing files and how many there are.
    """
    if len(images) == 0:
        raise BenchmarkError(f"the image list of '{images.name}' is empty")
    missing = images.missing()
    if missing:
        some = "\n  ".join(str(path) for path in missing[:10])
        more = f"\n  ... and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise BenchmarkError(
            f"{len(missing)} of {len(images)} images of '{images.name}' are not there:\n"
            f"  {some}{more}\nPut them there, or point --data-root to the folder that "
            "holds OpenOOD's data"
        )


RESERVED_SET_NAMES = ("nearood", "farood", "near mean", "far mean", "id", "train", "test", "csid")


def check_set_names(id_names: str | Iterable[str], ood_names: Iterable[str]) -> None:
    """Every OOD set of a benchmark has a name of its own: rows, means and files go by it.

    Upper and lower case are one, as some file systems take them.

    Args:
        id_names: the name, or names, of the ID set. ood_names: of all OOD sets, near and far.

    Raises:
        BenchmarkError: two of one name, one named as the ID set, or as something that tables print.
    """
    id_names = [id_names] if isinstance(id_names, str) else list(id_names)
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


def configs_root() -> Path:
    """Folder of the YAML files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_benchmarks() -> list[str]:
    """Names of the benchmarks that ship with the package."""
    return sorted(p.name for p in (configs_root() / "datasets").iterdir() if p.is_dir())


def load_benchmark(
    source: str | Path, data_root: str | Path | None = None, *, limit: int | None = None
) -> Benchmark:
    """Reads a benchmark.

    Args:
        source: a shipped name (`cifar10`, `realbench10`, ...) or a YAML file of your own.
        data_root: replaces the leading `./data` of the YAML's paths; by default `./data`, for a
            file of your own the file's folder.
        limit: at most this many images of each test and OOD set, drawn evenly from the list.

    Raises:
        BenchmarkError: unknown name, unreadable YAML, absent or malformed image list, labels
            that do not fit the class names.
    """
    config, origin = read_source(source)
    return read_benchmark(config, origin, data_root, limit=limit)


def read_benchmark(
    config: Mapping[str, Any],
    origin: Path,
    data_root: str | Path | None = None,
    *,
    limit: int | None = None,
) -> Benchmark:
    """`load_benchmark` of a YAML that was read already; `origin` is its file."""
    with schema_errors(origin):
        return _Reader(config, origin, data_root, limit).benchmark()


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
        TypeError: no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a path is {text!r}; write it as text")
    parts = Path(text).parts
    return root.joinpath(*parts[1:]) if parts[:1] == ("data",) else root / text


def declared_class_names(block: Mapping[str, Any], origin: Path) -> tuple[str, ...]:
    """Class names of a `dataset` block: a list, a known set, or a text file beside the YAML.

    Raises:
        BenchmarkError: none of these; another number than `num_classes`.
    """
    source = block.get("class_names", block["name"])
    if isinstance(source, (list, tuple)):
        names = tuple(str(name) for name in source)
    elif source in KNOWN_CLASS_NAMES:
        names = class_names(source)
    elif isinstance(source, str) and (origin.parent / source).is_file():
        names = class_names(origin.parent / source)
    else:
        raise BenchmarkError(
            f"{origin}: class_names is {source!r}; give a list, a text file beside the "
            f"YAML, or one of {', '.join(KNOWN_CLASS_NAMES)}"
        )
    wanted = block.get("num_classes")
    if wanted is not None and wanted != len(names):
        raise BenchmarkError(
            f"{origin}: num_classes is {wanted}, but there are {len(names)} class names"
        )
    return names


def check_labels(images: ImageList | None, num_classes: int) -> None:
    """Labels of an ID list are those of the class names.

    Raises:
        BenchmarkError: a label below 0, or beyond the last class name.
    """
    if images is None or len(images) == 0:
        return
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= num_classes:
        raise BenchmarkError(
            f"the ID list '{images.name}' has labels from {low} to {high}; with "
            f"{num_classes} class names they must be 0..{num_classes - 1}"
        )


class _Reader:
    def __init__(self, config: Mapping[str, Any], origin: Path, data_root, limit: int | None):
        self.config, self.origin, self.limit = config, origin, limit
        self.root = data_folder(origin, data_root)

    def benchmark(self) -> Benchmark:
        block = self.config.get("dataset")
        if not block or "test" not in block:
            raise BenchmarkError(f"{self.origin} has no 'dataset' block with a 'test' entry")
        ood = self.config.get("ood_dataset") or {}
        name = block["name"]
        names = declared_class_names(block, self.origin)
        train = self._images(block["train"], name, None) if "train" in block else None
        benchmark = Benchmark(
            name=name,
            class_names=names,
            train=train,
            test=self._images(block["test"], name, self.limit),
            near=self._group(ood.get("nearood")),
            far=self._group(ood.get("farood")),
        )
        if not benchmark.ood:
            raise BenchmarkError(f"{self.origin} names no OOD set (ood_dataset: nearood, farood)")
        for images in (train, benchmark.test):
            check_labels(images, len(names))
        for images in benchmark.ood:
            if (images.labels >= 0).any():
                raise BenchmarkError(
                    f"the OOD list '{images.name}' has labels other than -1; OOD is -1"
                )
        return benchmark

    def _group(self, block: Mapping[str, Any] | None) -> tuple[ImageList, ...]:
        if not block:
            return ()
        return tuple(self._images(block[name], name, self.limit) for name in block["datasets"])

    def _images(self, block: Mapping[str, Any], name: str, limit: int | None) -> ImageList:
        path = place(block["imglist_pth"], self.root)
        images = read_image_list(path, place(block["data_dir"], self.root), name)
        if limit is not None and limit < len(images):
            images = images.subset(np.linspace(0, len(images) - 1, limit).round().astype(int))
        return images


def read_image_list(path: Path, folder: Path, name: str) -> ImageList:
    """Reads OpenOOD's `path label` lines.

    Raises:
        BenchmarkError: absent file, or a line that is not a path and a whole number.
    """
    if not path.is_file():
        raise BenchmarkError(
            f"no image list at {path} (for '{name}'); point --data-root to the folder with "
            "benchmark_imglist/, or see docs/benchmarks.md for where it comes from"
        )
    paths, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path} is not a text file: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, _, label = line.strip().rpartition(" ")
        try:
            labels.append(int(label))
        except ValueError:
            raise BenchmarkError(
                f"{path}, line {number}: expected 'path label', found {line.strip()[:80]!r}"
            ) from None
        if not image:
            raise BenchmarkError(f"{path}, line {number}: the path is missing")
        paths.append(image)
    return ImageList(name, folder, tuple(paths), np.asarray(labels, dtype=np.int64))


def read_source(source: str | Path) -> tuple[dict[str, Any], Path]:
    """The YAML of a benchmark, and its file: a shipped name or a file of the user's.

    Raises:
        BenchmarkError: unknown name, no such file, no valid YAML.
    """
    text = str(source)
    if text.endswith((".yml", ".yaml")):
        found = [Path(text).expanduser()]
        if not found[0].is_file():
            raise BenchmarkError(f"no benchmark file at {found[0]}")
    else:
        folder = configs_root() / "datasets" / text
        found = [p for p in (folder / f"{text}.yml", folder / f"{text}_ood.yml") if p.is_file()]
        if not found:
            raise BenchmarkError(
                f"unknown benchmark '{text}'; known: {', '.join(list_benchmarks())}, or a YAML "
                "file of your own (docs/own_data.md)"
            )
    config: dict[str, Any] = {}
    for path in found:
        config |= read_yaml(path, BenchmarkError)
    return config, found[0]

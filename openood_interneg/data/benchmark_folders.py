"""Benchmarks out of folders of images, without any list: one subfolder per ID class, one folder
per OOD set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.class_folders import class_folders, folders_of
from openood_interneg.data.classnames import class_names
from openood_interneg.data.image_folders import subfolders
from openood_interneg.data.image_lists import BenchmarkError, ImageList
from openood_interneg.data.images import printable
from openood_interneg.data.listed_folders import (
    is_image,
    labelled_list,
    some_names,
    unlabelled_list,
)
from openood_interneg.data.splitting import split_off

PathLike = str | os.PathLike[str]
Folders = PathLike | Sequence[PathLike] | Mapping[str, PathLike]

TRAIN_PER_CLASS = 16
GROUPS = {"ood": "far", "far": "far", "near": "near"}  # subfolder of a benchmark's -> kind of sets
LAYOUT = (
    "id/CLASS/..., ood/SET/... (or near/SET/... and far/SET/...) and, if you like, train/CLASS/..."
)
SPLITS = {"train", "test", "val", "valid", "validation"}


def benchmark_from_folders(
    id_folder: PathLike,
    ood: Folders = (),
    near: Folders = (),
    *,
    train: PathLike | None = None,
    train_per_class: int = TRAIN_PER_CLASS,
    classes: str | Path | Sequence[str] | None = None,
    limit: int | None = None,
) -> Benchmark:
    """A benchmark out of folders of images.

    Every image below a folder counts; hidden files and those whose name ends like no image's are
    left out, the latter with a warning.

    Args:
        id_folder: one subfolder per class, named like it (`_` stands for a space).
        ood: folder or folders of the far OOD sets, each named after its folder, or name -> folder.
        near: those of the near ones.
        train: a folder like `id_folder` whose images are for proxies; then all of `id_folder` is
            tested.
        train_per_class: without `train`, so many images of each class are set apart for proxies
            and not tested: those whose names' hashes come first, at most half of the class.
        classes: names in label order, a file of them or a known set, to which the subfolders are
            matched; ImageNet's names fit subfolders named by WordNet ids. By default the
            subfolders' own names, sorted.
        limit: at most this many images of each test and OOD set, drawn evenly.

    Raises:
        BenchmarkError: a folder that is not there, has no images, or shares images with another;
            a class without images; sets that share a name; no OOD set.
        ClassNameError: class names that cannot be told apart, or are no text.
    """
    return folder_spec(id_folder, ood, near, train, train_per_class, classes).read(limit)


@dataclass(frozen=True)
class FolderSpec:
    """The folders of a benchmark; nothing in them has been looked at.

    Attributes:
        name: as tables print it.
        id_folder: with one subfolder per class.
        near: names and folders of the near OOD sets.
        far: those of the far ones.
        train: folder of the ID images for proxies, or None to split them off.
        train_per_class: how many of each class are split off, at most.
        classes: names in label order, or None for the subfolders' own.
    """

    name: str
    id_folder: Path
    near: tuple[tuple[str, Path], ...]
    far: tuple[tuple[str, Path], ...]
    train: Path | None = None
    train_per_class: int = TRAIN_PER_CLASS
    classes: tuple[str, ...] | None = None

    def read(self, limit: int | None = None) -> Benchmark:
        """Looks for the images; raises as `benchmark_from_folders` does."""
        if not self.near + self.far:
            raise BenchmarkError(
                f"there is no OOD set to tell from {self.id_folder}; give at least one folder of "
                "OOD images (--ood FOLDER or --near FOLDER)"
            )
        self._check_folders()
        classes = self._classes(self.id_folder)
        names = [name for name, _ in classes]
        if len(names) > 1 and {name.casefold() for name in names} <= SPLITS:
            raise BenchmarkError(
                f"the subfolders of {self.id_folder} ({', '.join(names)}) are splits, not "
                "classes: give the one to be tested with --id, and the one for the proxies with "
                "--train"
            )
        test = labelled_list(self.name, self.id_folder, classes)
        train: ImageList | None
        if self.train is not None:
            theirs = self._classes(self.train)
            _check_same_classes(self.id_folder, names, self.train, [name for name, _ in theirs])
            train = labelled_list(self.name, self.train, theirs)
        else:
            train, test = split_off(test, self.train_per_class)
        near, far = (
            tuple(unlabelled_list(name, folder).evenly(limit) for name, folder in group)
            for group in (self.near, self.far)
        )
        return Benchmark(self.name, tuple(names), train, test.evenly(limit), near, far)

    def told(self, benchmark: Benchmark) -> str:
        """What is tested, and by which rule images were set apart, for people.

        Args:
            benchmark: what `read` gave.
        """
        own = 0 if benchmark.train is None else len(benchmark.train)
        if self.train is not None:
            rule = f"the {own} images of {self.train} are for proxies, and none of these"
        elif own:
            rule = (
                f"of each class the {self.train_per_class} images whose names' hashes come first "
                f"(at most half) are for proxies, {own} in all, and not tested"
            )
        else:
            rule = "no image is set apart for proxies"
        sets = [f"{images.name} (near, {len(images)})" for images in benchmark.near]
        sets += [f"{images.name} (far, {len(images)})" for images in benchmark.far]
        return (
            f"ID: {len(benchmark.test)} images of {len(benchmark.class_names)} classes in "
            f"{self.id_folder}; {rule}. OOD: {', '.join(sets)}"
        )

    def _check_folders(self) -> None:
        folders = [self.id_folder, *(folder for _, folder in self.near + self.far)]
        folders += [self.train] if self.train is not None else []
        for folder in folders:
            if not folder.is_dir():
                there = "is a file" if folder.exists() else "is not there"
                raise BenchmarkError(f"{folder} {there}; give a folder of images")
        for a, b in combinations(folders, 2):
            real = [Path(os.path.realpath(folder)) for folder in (a, b)]
            if real[0].is_relative_to(real[1]) or real[1].is_relative_to(real[0]):
                where = "are one folder" if real[0] == real[1] else "lie in one another"
                raise BenchmarkError(
                    f"{a} and {b} {where}, so that images would count twice, as ID and OOD or in "
                    "two sets; give folders that share nothing"
                )

    def _classes(self, folder: Path) -> list[tuple[str, Path]]:
        """Names and subfolders of the classes, in label order."""
        if self.classes is None:
            return list(class_folders(folder, BenchmarkError).items())
        matched = folders_of(folder, self.classes, BenchmarkError)
        more = [path.name for path in subfolders(folder) if path not in matched]
        if more:
            raise BenchmarkError(
                f"{len(more)} subfolders of {folder} are none of the {len(self.classes)} classes: "
                f"{some_names(more)}; name these classes, too, or take the subfolders away"
            )
        return list(zip(self.classes, matched, strict=True))


def folder_spec(
    id_folder: PathLike,
    ood: Folders,
    near: Folders,
    train: PathLike | None,
    train_per_class: int,
    classes: str | Path | Sequence[str] | None,
) -> FolderSpec:
    """What `benchmark_from_folders` reads, under the same names."""
    return FolderSpec(
        _name(Path(id_folder)),
        Path(id_folder).expanduser(),
        tuple(_named(near)),
        tuple(_named(ood)),
        None if train is None else Path(train).expanduser(),
        train_per_class,
        None if classes is None else class_names(classes),
    )


def read_bench_folder(
    folder: PathLike,
    train_per_class: int = TRAIN_PER_CLASS,
    classes: str | Path | Sequence[str] | None = None,
) -> FolderSpec:
    """A benchmark's folder: `id/` with one subfolder per class, and OOD sets in `ood/`, or in
    `near/` and `far/`; `train/`, like `id/`, if there are images for proxies alone.

    A folder of OOD sets has one subfolder per set, or the images of a single set.

    Raises:
        BenchmarkError: other subfolders, no `id/`, no OOD set.
    """
    root = Path(folder).expanduser()
    there = {path.name: path for path in subfolders(root)}
    unread = [name for name in there if name not in (*GROUPS, "id", "train")]
    wrong = None
    if "id" not in there:
        wrong = "no subfolder id"
    elif not there.keys() & GROUPS.keys():
        wrong = "no subfolder ood, near or far"
    elif unread:
        wrong = f"a subfolder '{printable(unread[0])}', which nothing reads"
    if wrong:
        raise BenchmarkError(f"{root} has {wrong}; a benchmark's folder has {LAYOUT}")
    sets: dict[str, list[tuple[str, Path]]] = {"near": [], "far": []}
    for group, kind in GROUPS.items():
        if group in there:
            own = list(subfolders(there[group]))
            loose = [path.name for path in there[group].iterdir() if is_image(path)]
            if own and loose:
                raise BenchmarkError(
                    f"{there[group]} has images of its own (first: {printable(min(loose))}) beside "
                    "the subfolders of its sets; put each image into its set's subfolder"
                )
            sets[kind] += [(path.name, path) for path in own] or [(group, there[group])]
    return FolderSpec(
        _name(root),
        there["id"],
        tuple(sets["near"]),
        tuple(sets["far"]),
        there.get("train"),
        train_per_class,
        None if classes is None else class_names(classes),
    )


def _named(folders: Folders) -> Iterator[tuple[str, Path]]:
    if isinstance(folders, Mapping):
        yield from ((name, Path(folder).expanduser()) for name, folder in folders.items())
        return
    several = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    for folder in several:
        path = Path(folder).expanduser()
        yield _name(path), path


def _name(folder: Path) -> str:
    return os.path.basename(os.path.abspath(folder.expanduser()))


def _check_same_classes(
    folder: Path, classes: Sequence[str], train: Path, theirs: Sequence[str]
) -> None:
    missing = [name for name in classes if name not in theirs]
    more = [name for name in theirs if name not in classes]
    for names, there, here in ((missing, folder, train), (more, train, folder)):
        if names:
            raise BenchmarkError(
                f"{len(names)} classes of {there} are not in {here}: {some_names(names)}; both "
                "need the same subfolders"
            )

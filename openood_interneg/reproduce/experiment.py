"""An experiment: a table or figure as one YAML file, with the figures published for it.

A file under configs/experiments says what is run (parts, backbones, methods, points of a sweep,
seeds), how the outcome is laid out, and what the paper prints. Nothing here knows a particular
table: adding an experiment needs no code.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openood_interneg.data.benchmark import (
    Benchmark,
    BenchmarkError,
    ImageList,
    configs_root,
    load_benchmark,
)
from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.proxies import sample_per_class
from openood_interneg.settings import SettingsError, shown
from openood_interneg.vlm.text_files import parse_yaml, read_text

KINDS = ("table", "sweep", "errors", "ratios", "timing")
COORDINATES = ("part", "backbone", "point", "method")
COLUMNS = ("sets", "means", "seeds")
SETS = ("near", "far", "all")
PAPER_BENCHES = ("imagenet", "cifar10", "cifar100")
SUBSTITUTES = ("realbench10", "realbench100", "miniature")


@dataclass(frozen=True)
class Entry:
    """One method of a table: how it is printed, its registry name and its settings."""

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None


@dataclass(frozen=True)
class Part:
    """One benchmark of an experiment, or a part of one.

    Attributes:
        name: how rows or columns call it. benchmark: shipped name, or a YAML file beside the
            experiments. sets: which OOD sets are used: near, far or all, or the name of a single
            one; a part of a single set is left out where substituted data do not have it.
        settings: method -> settings that differ from the method's preset in this part.
        proxies_from_test: this many images of each class of the test set become the image
            proxies, and the rest is tested; 0 takes the training list.
    """

    name: str
    benchmark: str
    sets: str = "all"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    proxies_from_test: int = 0


@dataclass(frozen=True)
class Point:
    """One point of a sweep: settings that replace those of every method that has them.

    Attributes:
        label: how rows call it. sweep: which sweep it belongs to. value: on the x axis.
        counts: images drawn, (ID, OOD), for ratios. corpus: a word list the user supplies.
    """

    label: str
    sweep: str = ""
    value: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    corpus: str | None = None


@dataclass(frozen=True)
class Published:
    """One published row: its labels, its figures by column and metric, where it stands.

    Attributes:
        fpr: the positive class of its FPR@95, "ood" or "id"; empty where the row has none.
    """

    row: tuple[str, ...]
    values: Mapping[str, Mapping[str, float | None]]
    group: str = ""
    fpr: str = ""
    source: str = ""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper; see the module's text."""

    id: str
    title: str
    source: str
    kind: str
    parts: tuple[Part, ...]
    methods: tuple[Entry, ...]
    backbones: tuple[str, ...] = ("ViT-B/16",)
    points: tuple[Point, ...] = (Point(""),)
    short_points: tuple[Point, ...] = ()
    seeds: tuple[int, ...] = (0,)
    protocol: str = "mixed"
    preset: str | None = None
    preprocess: str = "openood_vlm"
    batch_size: int = 256
    rows: tuple[str, ...] = ("method",)
    columns: tuple[str, ...] = ("means",)
    metrics: tuple[str, ...] = ("AUROC", "FPR@95")
    names: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    corpora: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exhibit: str = ""
    notes: tuple[str, ...] = ()
    images: int = 0  # timing: images measured per OOD set
    text: str = field(default="", repr=False)  # the file, kept beside results

    def parts_for(self, substitute: str | None) -> tuple[Part, ...]:
        """The parts that are run; of substituted data those that do not name a set of the paper.

        Args:
            substitute: the benchmark that stands in for the paper's, or None.
        """
        return tuple(part for part in self.parts if part.sets in SETS or substitute is None)

    @property
    def family(self) -> str:
        """imagenet, cifar10 or cifar100: whose data the experiment needs."""
        first = Path(self.parts[0].benchmark).stem
        return next((f for f in ("imagenet", "cifar100", "cifar10") if first.startswith(f)), first)


def experiments_root() -> Path:
    """Folder of the experiments' YAML files."""
    return configs_root() / "experiments"


def list_experiments() -> list[str]:
    """Names, tables before figures, by number."""
    names = [path.stem for path in experiments_root().glob("*.yml")]

    def order(name: str) -> tuple[str, int, str]:
        kind = name.rstrip("0123456789_")
        digits = name[len(kind) :].split("_")[0]
        return ("0" if kind == "table" else "1" + kind, int(digits or 0), name)

    return sorted(names, key=order)


def load_experiment(source: str | Path) -> Experiment:
    """Reads an experiment by name or from a YAML file of your own.

    Raises:
        SettingsError: unknown name, unreadable YAML, unknown or missing keys, bad values.
    """
    text = str(source)
    if text.endswith((".yml", ".yaml")):
        path = Path(text).expanduser()
    else:
        path = experiments_root() / f"{text}.yml"
        if not path.is_file():
            near = difflib.get_close_matches(text, list_experiments(), n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(list_experiments())
            raise SettingsError(f"unknown experiment '{text}'; {hint}known: {known}")
    try:
        text = read_text(path, SettingsError)
        block = parse_yaml(text, path.name, SettingsError)
        return replace(_experiment(path.stem, block), text=text)
    except SettingsError as error:
        named = path.name in str(error)
        raise SettingsError(str(error) if named else f"{path.name}: {error}") from error
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise SettingsError(f"{path} is not an experiment: {reason}") from error


def _experiment(name: str, block: dict[str, Any]) -> Experiment:
    block = dict(block)
    metrics = tuple(block.get("metrics", ("AUROC", "FPR@95")))
    made = {
        "id": name,
        "parts": tuple(Part(**part) for part in block.pop("parts")),
        "methods": tuple(Entry(**entry) for entry in block.pop("methods")),
        "published": tuple(
            row for group in block.pop("published", []) for row in _published(group, metrics)
        ),
    }
    for key in ("points", "short_points"):
        if key in block:
            made[key] = tuple(p for item in block.pop(key) for p in _points(item))
    for key in ("backbones", "seeds", "rows", "columns", "metrics", "notes"):
        if key in block:
            made[key] = tuple(block.pop(key))
    experiment = Experiment(**made, **block)
    _check(experiment)
    return experiment


def _published(group: Mapping[str, Any], metrics: Sequence[str]) -> list[Published]:
    """Rows of one block: `columns` names what the numbers of a row stand for, in order."""
    out = []
    order = tuple(group.get("metrics", metrics))
    for row in group["rows"]:
        labels = tuple(str(label) for label in row["row"])
        numbers, width = list(row["values"]), len(order)
        columns = group["columns"]
        if len(numbers) != width * len(columns):
            raise ValueError(f"published row {labels} has {len(numbers)} numbers")
        values = {
            str(column): dict(zip(order, numbers[i * width : (i + 1) * width], strict=True))
            for i, column in enumerate(columns)
        }
        fpr = row.get("fpr", group.get("fpr", ""))
        rates = [figures.get("FPR@95") for figures in values.values()]
        if fpr not in ("ood", "id") and (fpr or any(rate is not None for rate in rates)):
            raise ValueError(
                f"published row {labels} has fpr {shown(fpr)}; say which class is positive in its "
                "FPR@95, fpr: ood or fpr: id (docs/protocols.md)"
            )
        out.append(Published(labels, values, group.get("group", ""), fpr, group["source"]))
    return out


def _points(item: Mapping[str, Any]) -> list[Point]:
    if "values" not in item:
        item = dict(item)
        if "counts" in item:
            item["counts"] = tuple(item["counts"])
        return [Point(**item)]
    return [
        Point(f"{item['sweep']} = {value}", item["sweep"], value, {item["setting"]: value})
        for value in item["values"]
    ]


def _check(experiment: Experiment) -> None:
    def one_of(value: str, known: Sequence[str], what: str) -> None:
        if value not in known:
            raise SettingsError(f"{what} is {value!r}; choose one of {', '.join(known)}")

    one_of(experiment.kind, KINDS, "kind")
    for row in experiment.rows:
        one_of(row, COORDINATES, "rows")
    for column in experiment.columns:
        one_of(column, COLUMNS, "columns")
    for part in experiment.parts:
        if not isinstance(part.sets, str) or not part.sets:
            one_of(part.sets, (*SETS, "the name of a set"), "sets")
    for entry in experiment.methods:
        get_method(entry.method)
    for part in experiment.parts:
        for method in part.settings:
            get_method(method)


# ---- data ----------------------------------------------------------------------------------


def part_benchmark(
    part: Part, bench: str | None, data_root: str | Path | None, limit: int | None
) -> tuple[Benchmark, Benchmark]:
    """The whole benchmark of a part, and the same with the part's OOD sets only.

    Args:
        bench: a substitute, or None for the paper's own.

    Raises:
        BenchmarkError: data not there, or a part that is left without OOD sets.
    """
    source: str | Path = bench or part.benchmark
    if not bench and str(source).endswith(".yml"):
        source = experiments_root() / source
    if part.proxies_from_test:  # out of all test images; what is left is limited
        whole = with_proxies_from_test(load_benchmark(source, data_root), part.proxies_from_test)
        whole = limited(whole, limit)
    else:
        whole = load_benchmark(source, data_root, limit=limit)
    near = tuple(images for images in whole.near if part.sets in ("near", "all", images.name))
    far = tuple(images for images in whole.far if part.sets in ("far", "all", images.name))
    if not near + far:
        known = ", ".join(images.name for images in whole.ood)
        kind = f"{part.sets} OOD set" if part.sets in SETS else f"OOD set '{part.sets}'"
        raise BenchmarkError(f"benchmark '{whole.name}' has no {kind}; it has {known}")
    return whole, replace(whole, near=near, far=far)


def limited(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """At most so many images of the test set and of each OOD set, drawn evenly from the lists."""

    def cut(images: ImageList) -> ImageList:
        if limit is None or limit >= len(images):
            return images
        return images.subset(np.linspace(0, len(images) - 1, limit).round().astype(int))

    near, far = tuple(map(cut, benchmark.near)), tuple(map(cut, benchmark.far))
    return replace(benchmark, test=cut(benchmark.test), near=near, far=far)


def with_proxies_from_test(benchmark: Benchmark, per_class: int, seed: int = 0) -> Benchmark:
    """The benchmark whose proxies come from its own test images; those are not tested.

    Raises:
        ProxyError: a class without test images.
    """
    test = benchmark.test
    chosen = np.sort(
        sample_per_class(
            test.labels,
            len(benchmark.class_names),
            per_class,
            select="random",
            seed=seed,
            class_names=benchmark.class_names,
        )
    )
    rest = np.setdiff1d(np.arange(len(test)), chosen)
    train = ImageList(f"{test.name}_proxies", test.folder, *_rows(test, chosen))
    return replace(benchmark, train=train, test=test.subset(rest))


def _rows(images: ImageList, at: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    return tuple(images.paths[i] for i in at), images.labels[at]


def ratio_counts(wanted: tuple[int, int], id_size: int, ood_size: int) -> tuple[int, int]:
    """How many ID and OOD images are drawn for a point of Figure 3.

    The paper draws up to 10,000 ID and 1,000 OOD images. Where there are fewer, both counts are
    scaled by the same factor, so that the ratio stays; each is at least 1.
    """
    factor = min(1.0, id_size / wanted[0], ood_size / wanted[1])
    return max(1, round(wanted[0] * factor)), max(1, round(wanted[1] * factor))


def draw(size: int, count: int, seed: int) -> np.ndarray:
    """`count` distinct indices below `size`, sorted; the seed decides which."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.permutation(size)[:count])

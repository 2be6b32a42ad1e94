"""An experiment: what one table or figure of the paper runs, prints and was published with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openood_interneg.evaluation.protocols import Protocol

KINDS = ("table", "sweep", "errors", "ratios", "streams", "timing")
COORDINATES = ("part", "backbone", "point", "method")
COLUMNS = ("sets", "means", "groups", "seeds")
SETS = ("near", "far", "all")
PAPER_BENCHES = ("imagenet", "cifar10", "cifar100")
SUBSTITUTES = ("realbench10", "realbench100", "miniature")


@dataclass(frozen=True)
class Variant:
    """One method of a table: how it is printed, its registry name and its settings.

    Several variants of a table may be one method with different settings.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None


@dataclass(frozen=True)
class Part:
    """One benchmark of an experiment, or a part of one.

    Attributes:
        name: how rows or columns call it.
        benchmark: shipped name, or a YAML file beside the experiments.
        sets: which OOD sets are used: near, far or all, or the name of a single one; a part of a
            single set is left out where substituted data do not have it.
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
        label: how rows call it.
        sweep: which sweep it belongs to.
        value: on the x axis.
        settings: in place of the methods' own.
        counts: images drawn, (ID, OOD), for ratios; for streams their ratio.
        stream: who comes when, one of `evaluation.streams.STREAMS`.
        shift: corruption and severity of a stream's ID images, such as "fog-2".
        corpus: a word list the user supplies.
    """

    label: str
    sweep: str = ""
    value: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    corpus: str | None = None
    stream: str = "mixed"
    shift: str = ""


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
    methods: tuple[Variant, ...]
    backbones: tuple[str, ...] = ("ViT-B/16",)
    points: tuple[Point, ...] = (Point(""),)
    short_points: tuple[Point, ...] = ()
    seeds: tuple[int, ...] = (0,)
    protocol: Protocol = "mixed"
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

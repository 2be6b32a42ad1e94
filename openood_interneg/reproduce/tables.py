"""From cells to tables: ours beside the published figures, the difference, best and second best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.vlm.factory import backbone_label

POSITIVE = {"ood": "OOD positive", "id": "ID positive"}
CONVENTION = (
    "FPR@95: OOD is the positive class, in ours and in published figures without a mark. "
    "† Published with ID as the positive class: the difference uses ours in that convention."
)
LOWER_IS_BETTER = {"FPR@95", "FPR@95(ID+)", "seconds", "Max-OOD", "Sum-OOD"}
EVERY, SHIFTED, GROUPS = "mean", "mean, ID shifted", ("Near-OOD", "Far-OOD")
AIMS = {"False alarms": 5.0, "False alarms, fixed": 5.0}  # best is nearest, not lowest
UNRANKED = {"OOD caught, fixed"}  # who calls everything unknown catches all
STAGES = ("seconds", "reading and encoding", "scoring", "inversion")

Numbers = dict[tuple[tuple[str, ...], str, str], list[float]]  # row, column, metric -> per seed


@dataclass
class Value:
    """One figure of a table.

    Attributes:
        row: labels of its row.
        column: of the table.
        metric: of the column.
        group: under which the row is printed.
        mean: ours; None where nothing ran.
        std: over seeds; None for a single one.
        seeds: how many ran.
        published: as printed.
        published_fpr: the positive class of a published FPR@95, "ood" or "id"; else empty.
        difference: ours minus published, in the convention of the published row.
        other: ours in that convention, where it is not the table's.
        rank: of ours: 1 best, 2 second best of the column, else 0.
        published_rank: likewise of the published figures.
    """

    row: tuple[str, ...]
    column: str
    metric: str
    group: str = ""
    mean: float | None = None
    std: float | None = None
    seeds: int = 0
    published: float | None = None
    published_fpr: str = ""
    source: str = ""
    difference: float | None = None
    other: float | None = None
    rank: int = 0
    published_rank: int = 0

    @property
    def mark(self) -> str:
        """A dagger where the published figure is of the other convention than the column."""
        return "†" if self.metric == "FPR@95" and self.published_fpr == "id" else ""

    def plain(self) -> dict[str, Any]:
        """For JSON and CSV."""
        return {
            "row": list(self.row),
            "column": self.column,
            "metric": self.metric,
            "ours": _round(self.mean),
            "std": _round(self.std),
            "seeds": self.seeds,
            "published": self.published,
            "published_convention": POSITIVE.get(self.published_fpr, ""),
            "difference": _round(self.difference),
            "ours_in_published_convention": _round(self.other),
            "source": self.source,
        }


@dataclass
class ResultTable:
    """Rows by columns by metrics."""

    rows: list[tuple[str, ...]]
    groups: list[str]
    columns: list[str]
    metrics: tuple[str, ...]
    values: dict[tuple[tuple[str, ...], str, str], Value] = field(default_factory=dict)

    def at(self, row: tuple[str, ...], column: str, metric: str) -> Value | None:
        """A figure, or None."""
        return self.values.get((row, column, metric))

    def plain(self) -> list[dict[str, Any]]:
        """All figures, row by row."""
        return [
            value.plain()
            for row in self.rows
            for column in self.columns
            for metric in self.metrics
            if (value := self.at(row, column, metric)) is not None
        ]


def set_name(experiment: Experiment, result: Mapping[str, Any], name: str) -> str:
    """How an OOD set is printed; sets of substituted data keep their own names."""
    return name if result.get("substitute") else experiment.names.get(name, name)


def build_table(experiment: Experiment, result: Mapping[str, Any]) -> ResultTable:
    """The experiment's table with what a result has of it and what was published."""
    metrics = ("Max-OOD", "Sum-OOD") if experiment.kind == "errors" else experiment.metrics
    ours = _ours(experiment, result, metrics)
    if experiment.kind == "streams":
        ours = _over_streams(experiment, result, metrics) | ours
    columns = _columns(experiment, result, ours)
    table = ResultTable([], [], columns, metrics)
    for published in experiment.published:
        _add_row(table, published.row, published.group)
        for column, figures in published.values.items():
            if result.get("substitute") and column not in _shared(experiment):
                column = f"{column} (paper)"
            if column not in table.columns:
                table.columns.append(column)
            for metric, number in figures.items():
                value = Value(published.row, column, metric, published.group)
                value.published, value.source = number, published.source
                if number is not None and metric == "FPR@95":
                    value.published_fpr = published.fpr
                table.values[published.row, column, metric] = value
    for (row, column, metric), numbers in ours.items():
        if metric not in metrics:
            continue
        _add_row(table, row, "")
        value = table.values.setdefault((row, column, metric), Value(row, column, metric))
        value.mean, value.seeds = float(np.mean(numbers)), len(numbers)
        value.std = float(np.std(numbers)) if len(numbers) > 1 else None
        if value.published is None:
            continue
        compared = value.mean
        if value.mark:
            compared = value.other = float(np.mean(ours[row, column, "FPR@95(ID+)"]))
        value.difference = compared - value.published
    _order(table)
    if experiment.rows[-1] == "method":  # parts or points are not rivals
        _rank(table)
    return table


def _shared(experiment: Experiment) -> set[str]:
    """Published columns that substituted data have, too: means and seeds, not OOD sets."""
    return {part.name for part in experiment.parts} | {"Average", "Mean", "Std", *"0123456789"}


def _add_row(table: ResultTable, row: tuple[str, ...], group: str) -> None:
    if row not in table.rows:
        table.rows.append(row)
        table.groups.append(group)


def _order(table: ResultTable) -> None:
    """Rows that only we have stand after the published ones of the same group."""
    pairs = list(zip(table.rows, table.groups, strict=True))
    order = list(dict.fromkeys(table.groups))
    pairs.sort(key=lambda pair: order.index(pair[1]))
    table.rows = [row for row, _ in pairs]
    table.groups = [group for _, group in pairs]


def _ours(experiment: Experiment, result: Mapping[str, Any], metrics: Sequence[str]) -> Numbers:
    """(row, column, metric) -> the seeds' figures."""
    wanted = {*metrics, "FPR@95(ID+)"}
    if experiment.kind == "timing":
        wanted |= set(STAGES)
    out: Numbers = {}
    for cell in result["cells"]:
        if "sets" not in cell:
            continue
        row = tuple(
            backbone_label(str(cell[name])) if name == "backbone" else str(cell[name])
            for name in experiment.rows
        )
        figures: dict[str, dict[str, float]] = {}
        for name, values in cell["sets"].items():
            figures[set_name(experiment, result, name)] = values
        known = [m for m in next(iter(figures.values())) if m in wanted]
        mean = {m: float(np.mean([values[m] for values in figures.values()])) for m in known}
        in_part = "part" not in experiment.rows
        if "seeds" in experiment.columns:
            for metric in known:
                out.setdefault((row, str(cell["seed"]), metric), []).append(mean[metric])
                out.setdefault((row, "Mean", metric), []).append(mean[metric])
            continue
        if "groups" in experiment.columns:
            near = {set_name(experiment, result, name) for name in cell["near"]}
            for column in GROUPS:
                group = [v for n, v in figures.items() if (n in near) == (column == GROUPS[0])]
                for m in known if group else ():
                    own = float(np.mean([values[m] for values in group]))
                    out.setdefault((row, column, m), []).append(own)
            continue
        for column, values in figures.items() if "sets" in experiment.columns else ():
            for metric in known:
                out.setdefault((row, column, metric), []).append(values[metric])
        for metric in known:
            column = cell["part"] if in_part else "Average"
            out.setdefault((row, column, metric), []).append(mean[metric])
    for (row, column, metric), numbers in list(out.items()):
        if "seeds" in experiment.columns and column == "Mean" and len(numbers) > 1:
            out[row, "Std", metric] = [float(np.std(numbers))]
    return out


def _over_streams(
    experiment: Experiment, result: Mapping[str, Any], metrics: Sequence[str]
) -> Numbers:
    """Means over the streams, and the shifted ones, of each seed; of methods that ran on all."""
    every = (*experiment.points, *experiment.short_points)
    names = {p.label: SHIFTED if p.shift else EVERY for p in every}
    ran, points = [c for c in result["cells"] if "sets" in c], {c["point"] for c in result["cells"]}
    on = {m: {c["point"] for c in ran if c["method"] == m} for m in {c["method"] for c in ran}}
    out: Numbers = {}
    for seed in dict.fromkeys(cell["seed"] for cell in ran):
        own = [c for c in ran if c["seed"] == seed and on[c["method"]] == points]
        cells = [cell | {"point": names[cell["point"]]} for cell in own]
        for key, numbers in _ours(experiment, dict(result) | {"cells": cells}, metrics).items():
            out.setdefault(key, []).append(float(np.mean(numbers)))
    return out


def _columns(experiment: Experiment, result: Mapping[str, Any], ours: Numbers) -> list[str]:
    columns = list(dict.fromkeys(column for _, column, _ in ours))
    if "seeds" in experiment.columns:
        last = ("Mean", "Std")
        columns.sort(key=lambda c: (c in last, last.index(c) if c in last else int(c)))
    if result.get("substitute") is None:  # the published order, where all of it can be filled
        published = list(dict.fromkeys(c for p in experiment.published for c in p.values))
        columns = published + [c for c in columns if c not in published]
    return columns


def _rank(table: ResultTable) -> None:
    """Marks best and second best per column; within one block where rows come in blocks."""
    for column in table.columns:
        for metric in table.metrics:
            blocks: dict[tuple[str, ...], list[Value]] = {}
            for row in table.rows:
                value = table.at(row, column, metric)
                if value is not None and column != "Std":
                    blocks.setdefault(row[:-1] if len(row) > 1 else (), []).append(value)
            for values in blocks.values():
                _mark(values, "mean", "rank", metric)
                _mark(values, "published", "published_rank", metric)


def _mark(values: Sequence[Value], name: str, rank: str, metric: str) -> None:
    aim = AIMS.get(metric)
    shown = {
        id(v): round(own if aim is None else -abs(own - aim), 2 if metric != "seconds" else 5)
        for v in values
        if (own := getattr(v, name)) is not None
    }
    if len(shown) < 2 or metric in UNRANKED:
        return
    order = sorted(set(shown.values()), reverse=metric not in LOWER_IS_BETTER)
    for value in values:
        if id(value) in shown and shown[id(value)] in order[:2]:
            setattr(value, rank, 1 + order.index(shown[id(value)]))


def number(value: float | None, metric: str) -> str:
    """As tables print it."""
    if value is None:
        return ""
    return f"{value:.5f}" if metric in STAGES else f"{value:.2f}"


def signed(value: float | None, metric: str) -> str:
    """A difference with its sign; a true minus."""
    if value is None:
        return ""
    text = f"{value:+.5f}" if metric in STAGES else f"{value:+.2f}"
    return text.replace("-", "−")


def arrow(metric: str) -> str:
    """Which way is better."""
    if metric == "AUROC":
        return "↑"
    return "↓" if metric in LOWER_IS_BETTER else ""


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

"""Figures of streams: false alarms and OOD caught over the stream, and over all streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.stream_metrics import FIXED, FOLLOWING, TPR
from openood_interneg.reproduce import panels
from openood_interneg.reproduce.experiment import Experiment

WAYS = ((FOLLOWING, "threshold follows"), (FIXED, "fixed before the stream"))
MEASURES = ("False alarms", "OOD caught")
TARGET = 100 * (1 - TPR)  # of false alarms, in percent


def stream_figures(
    experiment: Experiment, ran: Sequence[Mapping[str, Any]], colours: Mapping[str, str]
) -> Iterator[tuple[Any, ...]]:
    """Each figure: the end of its name, its title, its text for readers, what draws it from what.

    Args:
        experiment: of kind streams.
        ran: cells that ran.
        colours: of the methods, by label.
    """
    memory = [v.label for v in experiment.methods if get_method(v.method).state]
    if ran:
        labels = [v.label for v in experiment.methods if any(c["method"] == v.label for c in ran)]
        yield (
            "false_alarms",
            "False alarms of each method, one mark per stream",
            "False alarms of each method on each stream, with a threshold that follows and fixed",
            panels.over_streams,
            labels,
            {how: [_alarms(ran, label, way) for label in labels] for way, how in WAYS},
            [colours[label] for label in labels],
            TARGET,
        )
    for number, point in enumerate(experiment.points):
        cells = [c for c in ran if c["point"] == point.label and c["method"] in memory]
        if cells:
            yield (
                f"along_{number}",
                f"{point.label}: methods with a memory along the stream",
                f"{point.label}: false alarms and OOD caught over the stream, one line per method "
                "with a memory",
                panels.along_stream,
                {how: {m: _lines(cells, m + way) for m in MEASURES} for way, how in WAYS},
                colours,
                TARGET,
            )


def _lines(cells: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Method -> its line."""
    labels = dict.fromkeys(cell["method"] for cell in cells)
    return {
        label: _mean_line([cell for cell in cells if cell["method"] == label], name)
        for label in labels
    }


def _mean_line(cells: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """TENTHS means over sets and seeds; NaN where no stream has such an image."""
    every = [values["along"][name] for cell in cells for values in cell["sets"].values()]
    columns = [[v for v in column if v is not None] for column in zip(*every, strict=True)]
    return [float(np.mean(column)) if column else np.nan for column in columns]


def _alarms(ran: Sequence[Mapping[str, Any]], label: str, way: str) -> list[float]:
    """False alarms of a method on each stream that it ran on: means over sets and seeds."""
    by_stream: dict[str, list[float]] = {}
    for cell in ran:
        if cell["method"] == label:
            found = [values[f"False alarms{way}"] for values in cell["sets"].values()]
            by_stream.setdefault(cell["point"], []).extend(found)
    return [float(np.mean(found)) for found in by_stream.values() if found]

"""Figures of streams: false alarms and OOD caught over the stream, and over all streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.stream_metrics import FIXED, FOLLOWING, TENTHS, TPR
from openood_interneg.reproduce import plots, style
from openood_interneg.reproduce.experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ((FOLLOWING, "threshold follows"), (FIXED, "fixed before the stream"))
MEASURES = ("False alarms", "OOD caught")


def stream_figures(
    experiment: Experiment, ran: Sequence[Mapping[str, Any]], colours: Mapping[str, str]
) -> Iterator[tuple[Figure, str, str, str]]:
    """Each figure with the end of its name, its title and its text for readers.

    Args:
        experiment: of kind streams.
        ran: cells that ran.
        colours: of the methods, by label.
    """
    memory = [v.label for v in experiment.methods if get_method(v.method).state]
    if ran:
        yield (
            _over_streams(experiment, ran, colours),
            "false_alarms",
            "False alarms of each method, one mark per stream",
            "False alarms of each method on each stream, with a threshold that follows and fixed",
        )
    for number, point in enumerate(experiment.points):
        cells = [c for c in ran if c["point"] == point.label and c["method"] in memory]
        if cells:
            yield (
                _along(cells, colours),
                f"along_{number}",
                f"{point.label}: methods with a memory along the stream",
                f"{point.label}: false alarms and OOD caught over the stream, one line per method "
                "with a memory",
            )


def _along(cells: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Figure:
    """Rows: how the threshold is kept. Columns: false alarms, OOD caught."""
    figure, axes = style.new_figure(columns=2, rows=2, width=3.3, height=2.2)
    for above, below in zip(*axes, strict=True):  # before anything is drawn, or scales stay
        below.sharey(above)
    middle = (np.arange(TENTHS) + 0.5) * 100 / TENTHS
    for row, (way, how) in enumerate(WAYS):
        for column, measure in enumerate(MEASURES):
            ax = axes[row][column]
            lines: dict[str, np.ndarray] = {}
            for label in dict.fromkeys(cell["method"] for cell in cells):
                own = [cell for cell in cells if cell["method"] == label]
                lines[label] = _mean_line(own, measure + way)
            plots.stream_lines(ax, middle, lines, colours)
            if column == 0:
                ax.axhline(100 * (1 - TPR), color=style.GREY, linewidth=0.8, linestyle=":")
            ax.set_ylabel(f"{measure} (%)")
            ax.set_title(how)
            if row:
                ax.set_xlabel("% of the stream")
    axes[0][0].legend()
    style.legend_below(figure, axes[0][0])
    return figure


def _mean_line(cells: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(TENTHS,) means over sets and seeds; NaN where no stream has such an image."""
    every = [values["along"][name] for cell in cells for values in cell["sets"].values()]
    columns = [[v for v in column if v is not None] for column in zip(*every, strict=True)]
    return np.array([np.mean(column) if column else np.nan for column in columns])


def _alarms(ran: Sequence[Mapping[str, Any]], label: str, way: str) -> list[float]:
    """False alarms of a method on each stream that it ran on: means over sets and seeds."""
    by_stream: dict[str, list[float]] = {}
    for cell in ran:
        if cell["method"] == label:
            found = [values[f"False alarms{way}"] for values in cell["sets"].values()]
            by_stream.setdefault(cell["point"], []).extend(found)
    return [float(np.mean(found)) for found in by_stream.values() if found]


def _over_streams(
    experiment: Experiment, ran: Sequence[Mapping[str, Any]], colours: Mapping[str, str]
) -> Figure:
    labels = [v.label for v in experiment.methods if any(c["method"] == v.label for c in ran)]
    figure, axes = style.new_figure(width=4.6, height=1.2 + 0.24 * len(labels))
    marks = {how: [_alarms(ran, label, way) for label in labels] for way, how in WAYS}
    plots.strips(axes[0][0], labels, marks, [colours[label] for label in labels])
    axes[0][0].axvline(100 * (1 - TPR), color=style.GREY, linewidth=0.8, linestyle=":")
    axes[0][0].set_xlabel("false alarms (%)")
    axes[0][0].legend()
    style.legend_below(figure, axes[0][0])
    return figure

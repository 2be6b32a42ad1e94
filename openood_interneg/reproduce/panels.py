"""The figures of reports, each drawn from the plain values that it is given and from nothing else.

So a figure is the same as long as its values, this code and the plotting library are: see
`kept_figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from openood_interneg.reproduce import plots, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colours = Mapping[str, str]  # of lines, by label
Line = Sequence[float]


def bars(
    names: Sequence[str],
    ours: plots.Means,
    published: plots.Means,
    colours: Sequence[str],
    spread: plots.Means,
    label: str,
) -> Figure:
    """Ours as bars with the published figure beside."""
    figure, ax = _panel(height=0.8 + 0.27 * len(names))
    plots.paired_bars(ax, names, ours, published, colours, spread)
    ax.set_xlabel(label)
    return figure


def histogram(id_score: np.ndarray, ood_score: np.ndarray, ood_name: str) -> Figure:
    """Scores of ID and OOD images."""
    figure, ax = _panel()
    plots.score_histogram(ax, id_score, ood_score, ood_name)
    return figure


def judged_histogram(
    id_score: np.ndarray, ood_score: np.ndarray, ood_name: str, threshold: float
) -> Figure:
    """Scores of ID and OOD images, and the threshold between them.

    Shares of which many are nearly 0 or 1 are shown by their log-odds.
    """
    figure, ax = _panel(height=2.9)
    every = np.concatenate([id_score, ood_score, [threshold]]).astype(np.float64)
    label = "score (high = ID)"
    if every.min() >= 0 and every.max() <= 1 and np.mean(abs(every - 0.5) > 0.49) > 0.2:
        every = every.clip(1e-12, 1 - 2**-24)  # the last: single precision knows no nearer to 1
        every, label = np.log(every / (1 - every)), "log-odds of the score (high = ID)"
    own, ood = every[: len(id_score)], every[len(id_score) : -1]
    plots.score_histogram(ax, own, ood, ood_name, threshold=every[-1], label=label)
    style.legend_below(figure, ax)
    return figure


def roc(scores: Mapping[str, plots.ScorePair], colours: Colours) -> Figure:
    """ROC, one line per method."""
    figure, ax = _panel(height=3.4)
    plots.roc_curves(ax, scores, colours)
    style.legend_below(figure, ax)
    return figure


def precision_recall(scores: Mapping[str, plots.ScorePair], colours: Colours) -> Figure:
    """Precision over recall, one line per method."""
    figure, ax = _panel(height=3.4)
    plots.precision_recall_curves(ax, scores, colours)
    style.legend_below(figure, ax)
    return figure


def error_rates(gammas: Line, rates: Mapping[str, Line], colours: Colours) -> Figure:
    """ID error rate over gamma, one line per method."""
    figure, ax = _panel()
    plots.error_rate_curves(ax, gammas, rates, colours)
    ax.legend(frameon=False)
    return figure


def sweep(
    x: Line,
    lines: Mapping[str, Line],
    colours: Colours,
    default: float | None,
    labels: tuple[str, str],
) -> Figure:
    """A metric over a setting, one line per part; `labels` of both axes."""
    figure, ax = _panel()
    plots.sweep_line(ax, x, lines, colours, default)
    if x[0] > 0 and x[-1] / x[0] > 20:
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(x, [f"{value:g}" for value in x], rotation=30)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.legend(frameon=False)
    return figure


def ratios(
    points: Sequence[str], lines: Mapping[str, Line], colours: Colours, label: str
) -> Figure:
    """A metric over ID:OOD ratios, one line per method."""
    figure, ax = _panel()
    plots.category_lines(ax, points, lines, colours)
    ax.set_xlabel("ID : OOD")
    ax.set_ylabel(label)
    ax.legend(frameon=False)
    return figure


def timing(names: Sequence[str], stages: Mapping[str, Line]) -> Figure:
    """Milliseconds per image by stage, a bar per method."""
    figure, ax = _panel(height=1.1 + 0.4 * len(names))
    plots.stacked_bars(ax, names, stages)
    style.legend_below(figure, ax)
    ax.set_xlabel("milliseconds per image")
    return figure


def bank(seen: Mapping[str, Sequence[int]], banks: Mapping[str, Sequence[int]]) -> Figure:
    """Entries of the bank over images seen, one line per OOD set."""
    figure, ax = _panel()
    plots.bank_growth(ax, seen, banks)
    return figure


def drift(seen: Sequence[int], id_mean: plots.Means, ood_mean: plots.Means) -> Figure:
    """Mean score of each batch over the stream."""
    figure, ax = _panel()
    plots.score_drift(ax, seen, id_mean, ood_mean)
    return figure


def along_stream(
    rows: Mapping[str, Mapping[str, Mapping[str, Line]]], colours: Colours, target: float
) -> Figure:
    """How a stream went, by tenths.

    Args:
        rows: how the threshold is kept -> measure -> label of a line -> its percentages; the first
            measure is the one with a target.
        colours: of the lines.
        target: percentage, dotted.
    """
    first = next(iter(rows.values()))
    figure, axes = style.new_figure(columns=len(first), rows=len(rows), width=3.3, height=2.2)
    for above, below in zip(*axes, strict=True):  # before anything is drawn, or scales stay
        below.sharey(above)
    for row, (how, measures) in enumerate(rows.items()):
        for column, (measure, lines) in enumerate(measures.items()):
            ax = axes[row][column]
            pieces = len(next(iter(lines.values())))
            middle = (np.arange(pieces) + 0.5) * 100 / pieces
            plots.stream_lines(ax, middle, {k: np.array(v) for k, v in lines.items()}, colours)
            if column == 0:
                ax.axhline(target, color=style.GREY, linewidth=0.8, linestyle=":")
            ax.set_ylabel(f"{measure} (%)")
            ax.set_title(how)
            if row:
                ax.set_xlabel("% of the stream")
    axes[0][0].legend()
    style.legend_below(figure, axes[0][0])
    return figure


def sliding_alarms(lines: Mapping[str, Line], colours: Colours, target: float) -> Figure:
    """False alarms in windows that slide over a stream, one line per method; label -> percent."""
    figure, ax = _panel(height=3.2)
    middle = np.linspace(0, 100, 1 + 2 * len(next(iter(lines.values()))))[1::2]
    plots.stream_lines(ax, middle, {name: np.array(v) for name, v in lines.items()}, colours)
    ax.axhline(target, color=style.GREY, linewidth=0.8, linestyle=":")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("% of the stream's ID images")
    ax.set_ylabel("false alarms (%)")
    style.legend_below(figure, ax)
    return figure


def over_streams(
    names: Sequence[str],
    marks: Mapping[str, Sequence[Line]],
    colours: Sequence[str],
    target: float,
) -> Figure:
    """False alarms of each method, a mark per stream; the target is dotted."""
    figure, axes = style.new_figure(width=4.6, height=1.2 + 0.24 * len(names))
    plots.strips(axes[0][0], names, marks, colours)
    axes[0][0].axvline(target, color=style.GREY, linewidth=0.8, linestyle=":")
    axes[0][0].set_xlabel("false alarms (%)")
    axes[0][0].legend()
    style.legend_below(figure, axes[0][0])
    return figure


def _panel(height: float = 2.7) -> tuple[Figure, Axes]:
    """A figure with one axis, of a size that is readable on a phone."""
    figure, axes = style.new_figure(width=4.3, height=height)
    return figure, axes[0][0]

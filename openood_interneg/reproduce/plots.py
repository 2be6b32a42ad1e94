"""Plots: functions that take scores and an axis and return the axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from openood_interneg.evaluation.curves import precision_recall_points, roc_points
from openood_interneg.reproduce.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ID_COLOUR,
    INK,
    OOD_COLOUR,
    SKY,
    VERMILION,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ScorePair = tuple[np.ndarray, np.ndarray]  # ID scores, OOD scores
Means = Sequence[float | None]


def score_histogram(
    ax: Axes,
    id_score: np.ndarray,
    ood_score: np.ndarray,
    ood_name: str = "OOD",
    bins: int = 40,
    threshold: float | None = None,
    label: str = "score (high = ID)",
) -> Axes:
    """Densities of ID and OOD scores over the same bins; a threshold is dotted."""
    both = np.concatenate([id_score, ood_score])
    low, high = float(both.min()), float(both.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    for values, name, colour, hatch in (
        (id_score, "ID", ID_COLOUR, None),
        (ood_score, ood_name, OOD_COLOUR, "///"),
    ):
        share = np.histogram(values, edges)[0] / max(1, len(values))
        ax.stairs(share, edges, fill=True, alpha=0.35, color=colour, hatch=hatch, label=name)
        ax.stairs(share, edges, color=colour, linewidth=1.2)
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.2, linestyle=":", label="threshold")
    ax.set_xlabel(label)
    ax.set_ylabel("share of images")
    ax.legend(frameon=False)
    return ax


def roc_curves(ax: Axes, scores: Mapping[str, ScorePair], colours: Mapping[str, str]) -> Axes:
    """ROC with OOD as the positive class; label -> (ID scores, OOD scores)."""
    for (id_score, ood_score), style in styled(scores, colours):
        truth, score = _labelled(id_score, ood_score)
        fpr, tpr = roc_points(truth, -score)
        fpr, tpr = _thinned(fpr, tpr)
        ax.plot(100 * fpr, 100 * tpr, **style | {"marker": None})
    ax.axhline(95, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlabel("ID rejected (FPR, %)")
    ax.set_ylabel("OOD caught (TPR, %)")
    ax.legend(frameon=False, loc="lower right")
    return ax


def precision_recall_curves(
    ax: Axes, scores: Mapping[str, ScorePair], colours: Mapping[str, str]
) -> Axes:
    """Precision over recall with OOD as the positive class."""
    for (id_score, ood_score), style in styled(scores, colours):
        truth, score = _labelled(id_score, ood_score)
        precision, recall = precision_recall_points(truth, -score)
        recall, precision = _thinned(recall, precision)
        ax.plot(100 * recall, 100 * precision, **style | {"marker": None})
    ax.set_xlabel("recall of OOD (%)")
    ax.set_ylabel("precision (%)")
    return ax


def error_rate_curves(
    ax: Axes,
    gammas: Sequence[float],
    rates: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
) -> Axes:
    """ID error rate over the threshold gamma, one line per method."""
    for values, style in styled(rates, colours):
        ax.plot(gammas, values, markevery=6, **style)
    ax.set_xlabel("threshold γ")
    ax.set_ylabel("ID error rate (%)")
    return ax


def sweep_line(
    ax: Axes,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    default: float | None = None,
) -> Axes:
    """A figure over a setting, one line per label; the default is marked."""
    for values, style in styled(lines, colours):
        ax.plot(x, values, **style)
    if default is not None:
        ax.axvline(default, color=GREY, linewidth=0.8, linestyle=":")
    return ax


def category_lines(
    ax: Axes,
    names: Sequence[str],
    lines: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
) -> Axes:
    """Lines over named points, such as ratios."""
    for values, style in styled(lines, colours):
        ax.plot(range(len(names)), values, **style)
    ax.set_xticks(range(len(names)), names, rotation=30)
    return ax


def stream_lines(
    ax: Axes, x: np.ndarray, lines: Mapping[str, np.ndarray], colours: Mapping[str, str]
) -> Axes:
    """Lines over a stream, one per label; they run on over pieces without a figure (NaN)."""
    for values, style in styled(lines, colours):
        known = ~np.isnan(values)
        ax.plot(x[known], values[known], **style | {"markersize": 3, "linewidth": 1.2})
    ax.set_xlim(0, 100)
    return ax


def strips(
    ax: Axes,
    names: Sequence[str],
    marks: Mapping[str, Sequence[Sequence[float]]],
    colours: Sequence[str],
) -> Axes:
    """A line of marks for each name; kind of mark -> values of each name."""
    place = np.arange(len(names))[::-1]
    for shift, symbol, (kind, values) in zip(
        (0.14, -0.14), ("o", "x"), marks.items(), strict=False
    ):
        for y, own, colour in zip(place, values, colours, strict=True):
            ax.plot(own, [y + shift] * len(own), symbol, color=colour, markersize=4, alpha=0.8)
        ax.plot([], [], symbol, color=INK, markersize=4, label=kind)
    ax.set_yticks(place, names)
    ax.set_xlim(left=0)
    return ax


def paired_bars(
    ax: Axes,
    names: Sequence[str],
    ours: Sequence[float | None],
    published: Sequence[float | None],
    colours: Sequence[str],
    spread: Sequence[float | None] = (),
) -> Axes:
    """Horizontal bars of ours; the published figure is a diamond beside each."""
    place = np.arange(len(names))[::-1]
    for y, value, colour in zip(place, ours, colours, strict=True):
        if value is not None:
            ax.barh(y, value, 0.62, color=colour, alpha=0.85)
    for y, value, wide in zip(place, ours, spread or [None] * len(names), strict=True):
        if value is not None and wide:
            ax.errorbar(value, y, xerr=wide, color=INK, capsize=2, linewidth=1)
    known = [(y, v) for y, v in zip(place, published, strict=True) if v is not None]
    if known:
        ax.plot(
            [v for _, v in known],
            [y for y, _ in known],
            "D",
            markersize=4.5,
            markerfacecolor="white",
            color=INK,
            clip_on=False,
            label="published",
        )
    ax.set_yticks(place, names)
    figures = [v for v in (*ours, *(v for _, v in known)) if v is not None]
    if figures:
        low, high = min(figures), max(figures)
        room = max(0.15 * (high - low), 0.5 if high > 1 else 0.1 * high)
        ax.set_xlim(max(0.0, low - room), min(100.0, high + room) if high > 1 else high + room)
    return ax


def stacked_bars(ax: Axes, names: Sequence[str], stages: Mapping[str, Sequence[float]]) -> Axes:
    """Horizontal bars made of stages, such as seconds per image."""
    place, left = np.arange(len(names))[::-1], np.zeros(len(names))
    palette = (SKY, BLUE, VERMILION, GREEN)
    hatches = (None, "//", "..", "xx")
    for i, (stage, values) in enumerate(stages.items()):
        ax.barh(
            place, values, 0.6, left=left, label=stage, color=palette[i % 4], hatch=hatches[i % 4]
        )
        left = left + np.asarray(values)
    ax.set_yticks(place, names)
    ax.legend(frameon=False, fontsize="small")
    return ax


def bank_growth(
    ax: Axes, seen: Mapping[str, Sequence[int]], banks: Mapping[str, Sequence[int]]
) -> Axes:
    """Entries of the bank over the images seen, one line per OOD set."""
    colours = {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(banks)}
    for (name, sizes), (_, style) in zip(banks.items(), styled(banks, colours), strict=True):
        ax.plot([0, *seen[name]], [0, *sizes], markevery=0.2, **style)
    ax.set_xlabel("images seen")
    ax.set_ylabel("entries of the bank")
    ax.legend(frameon=False)
    return ax


def score_drift(ax: Axes, seen: Sequence[int], id_mean: Means, ood_mean: Means) -> Axes:
    """Mean score of the ID and the OOD images of each batch over the stream."""
    for values, name, colour, dash in (
        (id_mean, "ID", ID_COLOUR, "-"),
        (ood_mean, "OOD", OOD_COLOUR, "--"),
    ):
        known = [(s, v) for s, v in zip(seen, values, strict=True) if v is not None]
        x, y = [s for s, _ in known], [v for _, v in known]
        ax.plot(
            x,
            y,
            label=name,
            marker="o" if len(x) < 30 else None,
            markersize=3,
            color=colour,
            linestyle=dash,
            linewidth=1.6,
        )
    ax.set_xlim(left=0)
    ax.set_xlabel("images seen")
    ax.set_ylabel("mean score of a batch")
    ax.legend(frameon=False)
    return ax


def _labelled(id_score: np.ndarray, ood_score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth = np.concatenate([np.zeros(len(id_score), int), np.ones(len(ood_score), int)])
    return truth, np.concatenate([id_score, ood_score]).astype(np.float64)


def _thinned(x: np.ndarray, y: np.ndarray, points: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a curve, its ends among them: pages stay small."""
    if len(x) <= points:
        return x, y
    at = np.linspace(0, len(x) - 1, points).round().astype(int)
    return x[at], y[at]

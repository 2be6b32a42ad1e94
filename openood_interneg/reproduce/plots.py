"""Figures: functions that take scores and an axis and return the axis.

No global style is set. Colours are those of Okabe and Ito, which people with colour-blind eyes
tell apart, and a method has the same one in every figure; lines also differ by marker or dash.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE = "#D55E00", "#CC79A7"  # of the eight, yellow is too faint on white
GREY = "#8c8c8c"
ID_COLOUR, OOD_COLOUR = BLUE, ORANGE

# The ink of text and axes; pages replace it by the colour of their own text.
INK = "#1f2329"

METHOD_COLOURS = {
    "interneg": VERMILION,
    "interneg_negatives_only": PURPLE,
    "adaneg": BLUE,
    "neglabel": GREEN,
    "csp": ORANGE,
    "mcm": SKY,
    "clipscope": PURPLE,
    "eoe": INK,
    "energy": GREY,
    "mahalanobis": GREY,
    "cover": SKY,
    "tanl": INK,
}
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"
CYCLE = (VERMILION, BLUE, GREEN, ORANGE, SKY, PURPLE, GREY, INK)


def method_colour(method: str) -> str:
    """The colour of a method, the same in every figure and every run."""
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    return CYCLE[int(hashlib.blake2b(method.encode()).hexdigest(), 16) % len(CYCLE)]


def line_styles(labels: Sequence[str], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Colour, dash and marker of each line of an axis; no two lines share colour and dash."""
    taken: set[tuple[str, str]] = set()
    out = []
    for i, label in enumerate(labels):
        own = [_DASHES[(i + k) % 4] for k in range(4)]
        dash = next((d for d in own if (colours[label], d) not in taken), own[0])
        taken.add((colours[label], dash))
        out.append(
            {
                "color": colours[label],
                "linestyle": dash,
                "marker": _MARKERS[i % len(_MARKERS)],
                "markersize": 4,
                "linewidth": 1.6,
                "label": label,
            }
        )
    return out


# ---- axes ----------------------------------------------------------------------------------


def score_histogram(
    ax: Axes, id_score: np.ndarray, ood_score: np.ndarray, ood_name: str = "OOD", bins: int = 40
) -> Axes:
    """Densities of ID and OOD scores over the same bins."""
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
    ax.set_xlabel("score (high = ID)")
    ax.set_ylabel("share of images")
    ax.legend(frameon=False)
    return ax


def roc_curves(ax: Axes, scores: Mapping[str, tuple], colours: Mapping[str, str]) -> Axes:
    """ROC with OOD as the positive class; label -> (ID scores, OOD scores)."""
    from sklearn.metrics import roc_curve

    for (id_score, ood_score), style in zip(
        scores.values(), line_styles(list(scores), colours), strict=True
    ):
        truth, score = _labelled(id_score, ood_score)
        fpr, tpr, _ = roc_curve(truth, -score)
        fpr, tpr = _thinned(fpr, tpr)
        ax.plot(100 * fpr, 100 * tpr, **style | {"marker": None})
    ax.axhline(95, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlabel("ID rejected (FPR, %)")
    ax.set_ylabel("OOD caught (TPR, %)")
    ax.legend(frameon=False, loc="lower right")
    return ax


def precision_recall_curves(
    ax: Axes, scores: Mapping[str, tuple], colours: Mapping[str, str]
) -> Axes:
    """Precision over recall with OOD as the positive class."""
    from sklearn.metrics import precision_recall_curve

    for (id_score, ood_score), style in zip(
        scores.values(), line_styles(list(scores), colours), strict=True
    ):
        truth, score = _labelled(id_score, ood_score)
        precision, recall, _ = precision_recall_curve(truth, -score)
        recall, precision = _thinned(recall, precision)
        ax.plot(100 * recall, 100 * precision, **style | {"marker": None})
    ax.set_xlabel("recall of OOD (%)")
    ax.set_ylabel("precision (%)")
    return ax


def error_rate_curves(
    ax: Axes, gammas: Sequence[float], rates: Mapping[str, Sequence[float]], colours
) -> Axes:
    """ID error rate over the threshold gamma, one line per method."""
    for values, style in zip(rates.values(), line_styles(list(rates), colours), strict=True):
        ax.plot(gammas, values, markevery=6, **style)
    ax.set_xlabel("threshold γ")
    ax.set_ylabel("ID error rate (%)")
    return ax


def sweep_line(
    ax: Axes, x: Sequence[float], lines: Mapping[str, Sequence[float]], colours, default=None
) -> Axes:
    """A figure over a setting, one line per label; the default is marked."""
    for values, style in zip(lines.values(), line_styles(list(lines), colours), strict=True):
        ax.plot(x, values, **style)
    if default is not None:
        ax.axvline(default, color=GREY, linewidth=0.8, linestyle=":")
    return ax


def category_lines(ax: Axes, names: Sequence[str], lines: Mapping[str, Sequence], colours) -> Axes:
    """Lines over named points, such as ratios."""
    for values, style in zip(lines.values(), line_styles(list(lines), colours), strict=True):
        ax.plot(range(len(names)), values, **style)
    ax.set_xticks(range(len(names)), names, rotation=30)
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
    for (name, sizes), style in zip(banks.items(), line_styles(list(banks), colours), strict=True):
        ax.plot([0, *seen[name]], [0, *sizes], markevery=0.2, **style)
    ax.set_xlabel("images seen")
    ax.set_ylabel("entries of the bank")
    ax.legend(frameon=False)
    return ax


def score_drift(ax: Axes, seen: Sequence[int], id_mean: Sequence, ood_mean: Sequence) -> Axes:
    """Mean score of the ID and the OOD images of each batch over the stream."""
    for values, name, colour, dash in (
        (id_mean, "ID", ID_COLOUR, "-"),
        (ood_mean, "OOD", OOD_COLOUR, "--"),
    ):
        known = [(s, v) for s, v in zip(seen, values, strict=True) if v is not None]
        x, y = [s for s, _ in known], [v for _, v in known]
        style = {"color": colour, "linestyle": dash, "linewidth": 1.6}
        ax.plot(x, y, label=name, marker="o" if len(x) < 30 else None, markersize=3, **style)
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


# ---- figures -------------------------------------------------------------------------------

_LOOK = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8,
    "legend.handlelength": 3,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "interneg",
    "axes.formatter.useoffset": False,
}


class look:
    """`with look():` - the pages' style inside the block, and nothing of it after."""

    def __enter__(self):
        import matplotlib

        matplotlib.use("Agg", force=False)
        self._context = matplotlib.rc_context(_LOOK)
        self._context.__enter__()
        return self

    def __exit__(self, *error):
        return self._context.__exit__(*error)


def new_figure(columns: int = 1, rows: int = 1, width: float = 3.4, height: float = 2.6):
    """A figure with its axes, (rows, columns) array; to be drawn inside `look()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def as_svg(figure: Figure, prefix: str) -> str:
    """SVG text to put into a page: no date, ids of its own, ink in the page's text colour."""
    data = io.StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = data.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    ids = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))
    names = {name: f"{prefix}-{i}" for i, name in enumerate(ids)}
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{names[m[1]]}"', text)
    text = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names.get(m[1], m[1])})", text)
    return re.sub(r'href="#([^"]+)"', lambda m: f'href="#{names.get(m[1], m[1])}"', text)


def as_png(figure: Figure) -> bytes:
    """PNG on white, without a date."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return data.getvalue()

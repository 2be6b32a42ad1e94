"""Which figures an experiment gets, drawn from its cells."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openood_interneg.reproduce import plots, style
from openood_interneg.reproduce.error_types import GAMMAS
from openood_interneg.reproduce.exhibits import load_exhibit
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.sealed import file_digest
from openood_interneg.reproduce.stream_figures import stream_figures
from openood_interneg.reproduce.tables import STAGES, ResultTable, arrow, set_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure in both forms.

    Attributes:
        name: of its files.
        title: printed over it.
        alt: what it shows, for readers of text.
        svg: its ink is the page's text colour.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes


def draw_figures(
    experiment: Experiment, result: Mapping[str, Any], table: ResultTable, cells: Path
) -> list[Drawn]:
    """All figures of an experiment.

    Args:
        experiment: says which kinds of figures there are.
        result: of the experiment.
        table: of the result.
        cells: folder of the cells' files.
    """
    artist = _Artist(experiment, result, table, cells)
    with style.page_style():
        own = {"errors": artist.errors, "sweep": artist.sweeps, "ratios": artist.ratios}
        own |= {"streams": artist.streams, "timing": artist.timing}
        own.get(experiment.kind, artist.bars)()
        if experiment.kind == "table" and experiment.exhibit:
            artist.distributions()
        artist.stream()
    return artist.drawn


class _Artist:
    def __init__(
        self, experiment: Experiment, result: Mapping[str, Any], table: ResultTable, cells: Path
    ):
        self.experiment, self.result, self.table = experiment, result, table
        self.cells = cells
        self.drawn: list[Drawn] = []
        self.ran = [cell for cell in result["cells"] if "sets" in cell]
        self.colours = {
            variant.label: style.method_colour(variant.method) for variant in experiment.methods
        }
        methods = [variant.method for variant in experiment.methods]
        if len(set(methods)) < len(methods):  # variants of one method need colours of their own
            labels, cycle = [variant.label for variant in experiment.methods], style.CYCLE
            self.colours = {label: cycle[i % len(cycle)] for i, label in enumerate(labels)}

    def add(self, figure: Figure, name: str, title: str, alt: str) -> None:
        name = f"{self.experiment.id}_{name}"
        svg = style.as_svg(figure, name).replace(style.INK, "currentColor")
        self.drawn.append(Drawn(name, title, alt, svg, style.as_png(figure)))

    def set_name(self, name: str) -> str:
        return set_name(self.experiment, self.result, name)

    def streams(self) -> None:
        """False alarms and OOD caught over each stream."""
        for drawn in stream_figures(self.experiment, self.ran, self.colours):
            self.add(*drawn)

    def bars(self) -> None:
        """Ours as bars with the published figure beside, for every column of means."""
        if "seeds" in self.experiment.columns:
            columns = ["Mean"]
        else:
            parts = [part.name for part in self.experiment.parts]
            columns = [c for c in self.table.columns if c in (*parts, "Average")]
        for column in columns:
            rows = [row for row in self.table.rows if self._ran(row, column)]
            for metric in self.table.metrics:
                if len(rows) < 2:
                    continue
                values = [self.table.values[row, column, metric] for row in rows]
                other = "; † published with ID positive" if any(v.mark for v in values) else ""
                figure, ax = _panel(height=0.8 + 0.27 * len(rows))
                plots.paired_bars(
                    ax,
                    [" · ".join(row) + value.mark for row, value in zip(rows, values, strict=True)],
                    [value.mean for value in values],
                    [value.published for value in values],
                    [self._row_colour(row) for row in rows],
                    [value.std for value in values],
                )
                ax.set_xlabel(f"{metric} {arrow(metric)}")
                self.add(
                    figure,
                    f"bars_{_slug(column)}_{_slug(metric)}",
                    f"{column}, {metric}: ours (bars) and published (diamonds){other}",
                    f"Bars of {metric} per row of the table, column {column}",
                )

    def _ran(self, row: tuple[str, ...], column: str) -> bool:
        values = [self.table.at(row, column, metric) for metric in self.table.metrics]
        return all(value is not None and value.mean is not None for value in values)

    def _row_colour(self, row: tuple[str, ...]) -> str:
        return self.colours.get(row[-1], style.VERMILION)

    def distributions(self) -> None:
        """Score histograms of the exhibited method; ROC and precision-recall of all methods."""
        scores: dict[str, dict[str, plots.ScorePair]] = {}
        for cell in self.ran:
            same = all(cell[k] == self.ran[0][k] for k in ("backbone", "point", "seed"))
            path = self.cells / f"{cell['cell']}.npz"
            if not same or not path.is_file():
                continue
            if cell.get("scores") not in (None, file_digest(path)):
                warnings.warn(
                    f"{path} is damaged, and its curves are left out; run the experiment again",
                    stacklevel=2,
                )
                continue
            with np.load(path) as arrays:
                for name in cell["sets"]:
                    pair = arrays[f"{name}.id"], arrays[f"{name}.ood"]
                    scores.setdefault(name, {})[cell["method"]] = pair
        shown = self.experiment.exhibit
        for name, by in scores.items():
            label = self.set_name(name)
            if shown in by:
                figure, ax = _panel()
                id_score, ood_score = by[shown]
                plots.score_histogram(ax, id_score, ood_score, label)
                self.add(
                    figure,
                    f"histogram_{_slug(name)}",
                    f"Scores of {shown}, ID and {label}",
                    f"Histograms of {shown}'s scores of ID images and of {label}",
                )
            for kind, draw, title in (
                ("roc", plots.roc_curves, "ROC"),
                ("pr", plots.precision_recall_curves, "Precision and recall"),
            ):
                figure, ax = _panel(height=3.4)
                draw(ax, by, self.colours)
                style.legend_below(figure, ax)
                self.add(
                    figure,
                    f"{kind}_{_slug(name)}",
                    f"{title} of {label}, OOD positive",
                    f"{title} of {label}, one line per method",
                )

    def errors(self) -> None:
        """Max-OOD and Sum-OOD dominant rates over gamma, per OOD set."""
        for name in list(self.ran[0]["sets"]) if self.ran else []:
            label = self.set_name(name)
            for kind, title in (("max_ood", "Max-OOD"), ("sum_ood", "Sum-OOD")):
                figure, ax = _panel()
                rates = {cell["method"]: cell["sets"][name][kind] for cell in self.ran}
                plots.error_rate_curves(ax, GAMMAS, rates, self.colours)
                ax.legend(frameon=False)
                self.add(
                    figure,
                    f"{kind}_{_slug(name)}",
                    f"{title} dominant ID errors, OOD set {label}",
                    f"Rate of {title} dominant ID errors over the threshold, OOD set {label}",
                )

    def sweeps(self) -> None:
        """A panel per setting and metric; lines are the parts."""
        parts = list(dict.fromkeys(cell["part"] for cell in self.ran))
        colours = {part: (style.VERMILION, style.BLUE)[i % 2] for i, part in enumerate(parts)}
        points = {p.label: p for p in (*self.experiment.points, *self.experiment.short_points)}
        for sweep in dict.fromkeys(point.sweep for point in points.values()):
            cells = [c for c in self.ran if points[c["point"]].sweep == sweep]
            x = sorted({points[cell["point"]].value for cell in cells})
            for metric in self.experiment.metrics if x else ():
                lines = {part: [np.nan] * len(x) for part in parts}
                for cell in cells:
                    mean = float(np.mean([values[metric] for values in cell["sets"].values()]))
                    lines[cell["part"]][x.index(points[cell["point"]].value)] = mean
                figure, ax = _panel()
                plots.sweep_line(ax, x, lines, colours, _DEFAULTS.get(sweep))
                if x[0] > 0 and x[-1] / x[0] > 20:
                    ax.set_xscale("log")
                    ax.minorticks_off()
                    ax.set_xticks(x, [f"{value:g}" for value in x], rotation=30)
                name = "β" if sweep == "beta" else sweep
                ax.set_xlabel(name)
                ax.set_ylabel(f"{metric} {arrow(metric)}")
                ax.legend(frameon=False)
                self.add(
                    figure,
                    f"sweep_{_slug(sweep)}_{_slug(metric)}",
                    f"{metric} over {name}; the default is dotted",
                    f"{metric} over {name}, one line per part of the benchmark",
                )

    def ratios(self) -> None:
        """AUROC and FPR over ID:OOD ratios."""
        points = [point.label for point in self.experiment.points]
        parts = [part.name for part in self.experiment.parts]
        columns = [name for name in parts if any(cell["part"] == name for cell in self.ran)]
        for column, metric in itertools.product(columns, self.experiment.metrics):
            lines = {}
            for variant in self.experiment.methods:
                found = [self.table.at((point, variant.label), column, metric) for point in points]
                lines[variant.label] = [
                    np.nan if value is None or value.mean is None else value.mean for value in found
                ]
            figure, ax = _panel()
            plots.category_lines(ax, points, lines, self.colours)
            ax.set_xlabel("ID : OOD")
            ax.set_ylabel(f"{metric} {arrow(metric)}")
            ax.legend(frameon=False)
            self.add(
                figure,
                f"ratios_{_slug(column)}_{_slug(metric)}",
                f"{column}: {metric} over the ratio of ID to OOD images",
                f"{column}: {metric} over the ratio of ID to OOD images, one line per method",
            )

    def timing(self) -> None:
        """Time per image by stage."""
        names: list[str] = []
        stages: dict[str, list[float]] = {stage: [] for stage in STAGES[1:]}
        for cell in self.ran:
            names.append(cell["method"])
            for stage, values in stages.items():
                values.append(1000 * float(np.mean([v[stage] for v in cell["sets"].values()])))
        if names:
            figure, ax = _panel(height=1.1 + 0.4 * len(names))
            plots.stacked_bars(ax, names, stages)
            style.legend_below(figure, ax)
            ax.set_xlabel("milliseconds per image")
            self.add(figure, "stages", "Time per image by stage", "Stacked bars of time per stage")

    def stream(self) -> None:
        """The bank's growth and the score's drift, from the exhibit."""
        exhibit = load_exhibit(self.result, self.cells)
        if not exhibit:
            return
        streams = {self.set_name(k): v["stream"] for k, v in exhibit["sets"].items()}
        figure, ax = _panel()
        plots.bank_growth(
            ax,
            {name: stream["seen"] for name, stream in streams.items()},
            {name: stream["bank"] for name, stream in streams.items()},
        )
        self.add(figure, "bank", "Growth of the bank", "Entries of the bank over images seen")
        for name, stream in streams.items():
            figure, ax = _panel()
            plots.score_drift(ax, stream["seen"], stream["id"], stream["ood"])
            self.add(
                figure,
                f"drift_{_slug(name)}",
                f"Mean score of each batch over the stream with {name}",
                f"Mean ID and OOD scores per batch over the stream with {name}",
            )


_DEFAULTS = {"N": 16, "M": 2000, "K": 2000, "beta": 0.35}


def _panel(height: float = 2.7) -> tuple[Figure, Axes]:
    """A figure with one axis, of a size that is readable on a phone."""
    figure, axes = style.new_figure(width=4.3, height=height)
    return figure, axes[0][0]


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.lower()).strip("_")

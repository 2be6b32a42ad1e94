"""Which figures an experiment gets, drawn from its cells."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openood_interneg.reproduce import panels, plots, style
from openood_interneg.reproduce.error_types import GAMMAS
from openood_interneg.reproduce.exhibits import load_exhibit
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.kept_figures import Drawn, FigureFiles
from openood_interneg.reproduce.sealed import file_digest
from openood_interneg.reproduce.stream_figures import stream_figures
from openood_interneg.reproduce.tables import STAGES, ResultTable, arrow, set_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(
    experiment: Experiment,
    result: Mapping[str, Any],
    table: ResultTable,
    cells: Path,
    files: FigureFiles,
) -> list[Drawn]:
    """All figures of an experiment; those whose inputs did not change are not drawn anew.

    Args:
        experiment: says which kinds of figures there are.
        result: of the experiment.
        table: of the result.
        cells: folder of the cells' files.
        files: where the figures are, or come to be.
    """
    artist = _Artist(experiment, result, table, cells, files)
    own = {"errors": artist.errors, "sweep": artist.sweeps, "ratios": artist.ratios}
    own |= {"streams": artist.streams, "timing": artist.timing}
    own.get(experiment.kind, artist.bars)()
    if experiment.kind == "table" and experiment.exhibit:
        artist.distributions()
    artist.stream()
    files.write_record()
    return artist.drawn


class _Artist:
    def __init__(
        self,
        experiment: Experiment,
        result: Mapping[str, Any],
        table: ResultTable,
        cells: Path,
        files: FigureFiles,
    ):
        self.experiment, self.result, self.table = experiment, result, table
        self.cells, self.files = cells, files
        self.drawn: list[Drawn] = []
        self.ran = [cell for cell in result["cells"] if "sets" in cell]
        self.colours = {
            variant.label: style.method_colour(variant.method) for variant in experiment.methods
        }
        methods = [variant.method for variant in experiment.methods]
        if len(set(methods)) < len(methods):  # variants of one method need colours of their own
            labels, cycle = [variant.label for variant in experiment.methods], style.CYCLE
            self.colours = {label: cycle[i % len(cycle)] for i, label in enumerate(labels)}

    def add(
        self, name: str, title: str, alt: str, draw: Callable[..., Figure], *inputs: Any
    ) -> None:
        name = f"{self.experiment.id}_{name}"
        self.drawn.append(self.files.figure(name, title, alt, draw, *inputs))

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
                self.add(
                    f"bars_{_slug(column)}_{_slug(metric)}",
                    f"{column}, {metric}: ours (bars) and published (diamonds){other}",
                    f"Bars of {metric} per row of the table, column {column}",
                    panels.bars,
                    [" · ".join(row) + value.mark for row, value in zip(rows, values, strict=True)],
                    [value.mean for value in values],
                    [value.published for value in values],
                    [self._row_colour(row) for row in rows],
                    [value.std for value in values],
                    f"{metric} {arrow(metric)}",
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
                self.add(
                    f"histogram_{_slug(name)}",
                    f"Scores of {shown}, ID and {label}",
                    f"Histograms of {shown}'s scores of ID images and of {label}",
                    panels.histogram,
                    *by[shown],
                    label,
                )
            for kind, draw, title in (
                ("roc", panels.roc, "ROC"),
                ("pr", panels.precision_recall, "Precision and recall"),
            ):
                self.add(
                    f"{kind}_{_slug(name)}",
                    f"{title} of {label}, OOD positive",
                    f"{title} of {label}, one line per method",
                    draw,
                    by,
                    self.colours,
                )

    def errors(self) -> None:
        """Max-OOD and Sum-OOD dominant rates over gamma, per OOD set."""
        for name in list(self.ran[0]["sets"]) if self.ran else []:
            label = self.set_name(name)
            for kind, title in (("max_ood", "Max-OOD"), ("sum_ood", "Sum-OOD")):
                self.add(
                    f"{kind}_{_slug(name)}",
                    f"{title} dominant ID errors, OOD set {label}",
                    f"Rate of {title} dominant ID errors over the threshold, OOD set {label}",
                    panels.error_rates,
                    GAMMAS,
                    {cell["method"]: cell["sets"][name][kind] for cell in self.ran},
                    self.colours,
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
                name = "β" if sweep == "beta" else sweep
                self.add(
                    f"sweep_{_slug(sweep)}_{_slug(metric)}",
                    f"{metric} over {name}; the default is dotted",
                    f"{metric} over {name}, one line per part of the benchmark",
                    panels.sweep,
                    x,
                    lines,
                    colours,
                    _DEFAULTS.get(sweep),
                    (name, f"{metric} {arrow(metric)}"),
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
            self.add(
                f"ratios_{_slug(column)}_{_slug(metric)}",
                f"{column}: {metric} over the ratio of ID to OOD images",
                f"{column}: {metric} over the ratio of ID to OOD images, one line per method",
                panels.ratios,
                points,
                lines,
                self.colours,
                f"{metric} {arrow(metric)}",
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
            self.add(
                "stages",
                "Time per image by stage",
                "Stacked bars of time per stage",
                panels.timing,
                names,
                stages,
            )

    def stream(self) -> None:
        """The bank's growth and the score's drift, from the exhibit."""
        exhibit = load_exhibit(self.result, self.cells)
        if not exhibit:
            return
        streams = {self.set_name(k): v["stream"] for k, v in exhibit["sets"].items()}
        self.add(
            "bank",
            "Growth of the bank",
            "Entries of the bank over images seen",
            panels.bank,
            {name: stream["seen"] for name, stream in streams.items()},
            {name: stream["bank"] for name, stream in streams.items()},
        )
        for name, stream in streams.items():
            self.add(
                f"drift_{_slug(name)}",
                f"Mean score of each batch over the stream with {name}",
                f"Mean ID and OOD scores per batch over the stream with {name}",
                panels.drift,
                stream["seen"],
                stream["id"],
                stream["ood"],
            )


_DEFAULTS = {"N": 16, "M": 2000, "K": 2000, "beta": 0.35}


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.lower()).strip("_")

"""Writes results and reports. The same results always give the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.data.store import write_text
from openood_interneg.evaluation.results import csv_cell
from openood_interneg.reproduce.exhibits import load_exhibit
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.experiment_files import list_experiments, load_experiment
from openood_interneg.reproduce.figures import draw_figures
from openood_interneg.reproduce.kept_figures import FigureFiles
from openood_interneg.reproduce.latex import latex
from openood_interneg.reproduce.markdown import markdown
from openood_interneg.reproduce.page import html
from openood_interneg.reproduce.sealed import read_sealed, write_sealed
from openood_interneg.reproduce.sections import Section
from openood_interneg.reproduce.tables import build_table

# How the result came about, which is another each time: results do not tell it.
OF_THE_RUN = ("seconds", "found", "computed")


@dataclass(frozen=True)
class Report:
    """All sections; what the command prints."""

    sections: list[Section]

    def markdown_of(self, names: set[str]) -> str:
        """Tables of some experiments as Markdown."""
        chosen = [s for s in self.sections if s.experiment.id in names]
        return "\n".join(markdown(section, figures=False) for section in chosen)


def write_result(out: Path, experiment: Experiment, result: Mapping[str, Any]) -> Path:
    """Writes a result with its figures, and the experiment's file, to `out/experiments`."""
    folder = Path(out) / "experiments"
    table = build_table(experiment, result)
    path = folder / f"{experiment.id}.json"
    write_text(folder / f"{experiment.id}.yml", experiment.text)
    plain = {name: value for name, value in result.items() if name not in OF_THE_RUN}
    write_sealed(path, plain | {"figures": table.plain()})
    return path


def write_report(out: Path) -> Report:
    """Builds the report of all results in `out/experiments`: HTML, Markdown, LaTeX, CSV, JSON.

    Figures go to `out/figures` as SVG and PNG; they are in the page, too, and one whose inputs
    did not change is not drawn anew. A damaged or edited result is left out with a warning.
    """
    out = Path(out)
    results = [(path, read_sealed(path)) for path in _results(out)]
    report = Report([_section(out, path, found) for path, found in results if found is not None])
    for section in report.sections:
        name = section.experiment.id
        write_text(out / "tables" / f"{name}.tex", latex(section))
        write_text(out / "tables" / f"{name}.csv", csv_text(section))
    text = "# Reproduced tables and figures\n\n" + "\n".join(map(markdown, report.sections))
    write_text(out / "report.md", text)
    plain = {
        s.experiment.id: dict(s.result) | {"figures": s.table.plain()} for s in report.sections
    }
    write_text(out / "report.json", json.dumps(plain, indent=1))
    write_text(out / "report.html", html(report.sections))
    return report


def _results(out: Path) -> list[Path]:
    known = list_experiments()
    paths = list((out / "experiments").glob("*.json"))
    return sorted(
        paths, key=lambda p: (known.index(p.stem) if p.stem in known else len(known), p.stem)
    )


def _section(out: Path, path: Path, result: dict[str, Any]) -> Section:
    experiment = load_experiment(path.with_suffix(".yml"))
    table = build_table(experiment, result)
    files = FigureFiles(out / "figures", experiment.id)
    figures = draw_figures(experiment, result, table, out / "cells", files)
    return Section(experiment, result, table, figures, load_exhibit(result, out / "cells"))


def csv_text(section: Section) -> str:
    """One line per figure."""
    data = io.StringIO()
    rows = section.table.plain()
    names = [
        "experiment",
        *section.experiment.rows,
        "column",
        "metric",
        "ours",
        "std",
        "seeds",
        "published",
        "published_convention",
        "difference",
        "ours_in_published_convention",
        "source",
    ]
    writer = csv.writer(data, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [section.experiment.id, *row["row"]]
        cells += ["" if row[n] is None else row[n] for n in names[len(cells) :]]
        writer.writerow([csv_cell(cell) for cell in cells])
    return data.getvalue()

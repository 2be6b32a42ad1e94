"""Writes results and reports. The same results always give the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.data.store import atomic_path, write_text
from openood_interneg.evaluation.results import csv_cell
from openood_interneg.reproduce.experiment import Experiment, list_experiments, load_experiment
from openood_interneg.reproduce.figures import Drawn, draw_figures, load_exhibit
from openood_interneg.reproduce.sealed import read_sealed, write_sealed
from openood_interneg.reproduce.tables import (
    CONVENTION,
    Table,
    Value,
    arrow,
    build_table,
    number,
    set_name,
    signed,
)
from openood_interneg.settings import printable

NOT_PAPER = "not the paper's data: figures are not comparable with the published column"


@dataclass(frozen=True)
class Section:
    """One experiment as a page shows it."""

    experiment: Experiment
    result: Mapping[str, Any]
    table: Table
    figures: list[Drawn]
    exhibit: Mapping[str, Any] | None

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before reading a figure."""
        out = []
        if self.result["substitute"]:
            out.append(f"Run on {Path(self.result['substitute']).stem}, {NOT_PAPER}.")
        if self.result["limit"]:
            out.append(f"At most {self.result['limit']} images of each test set were used.")
        if self.result["short"]:
            out.append("Fewer points of the sweep were run than for the paper's data.")
        if self.experiment.protocol == "openood":
            out.append(
                "Protocol openood scores all ID images before any OOD image was seen; figures of "
                "methods with a memory are not comparable with the paper's."
            )
        out += [f"Not run here: {reason}" for reason in self.result["unavailable"]]
        return out

    def set_name(self, name: str) -> str:
        """How an OOD set is printed."""
        return set_name(self.experiment, self.result, name)

    @property
    def conventions(self) -> bool:
        """Whether the table has published figures of FPR@95, whose conventions must be told."""
        return any(value.published_fpr for value in self.table.values.values())


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
    write_sealed(path, dict(result) | {"figures": table.plain()})
    return path


def write_report(out: Path) -> Report:
    """Builds the report of all results in `out/experiments`: HTML, Markdown, LaTeX, CSV, JSON.

    Figures go to `out/figures` as SVG and PNG; they are in the page, too. A damaged or edited
    result is left out with a warning.
    """
    out = Path(out)
    results = [(path, read_sealed(path)) for path in _results(out)]
    report = Report([_section(out, path, found) for path, found in results if found is not None])
    for section in report.sections:
        name = section.experiment.id
        write_text(out / "tables" / f"{name}.tex", latex(section))
        write_text(out / "tables" / f"{name}.csv", csv_text(section))
        for figure in section.figures:
            svg = figure.svg.replace("currentColor", "#1f2328")
            header = '<?xml version="1.0" encoding="utf-8"?>\n'
            write_text(out / "figures" / f"{figure.name}.svg", header + svg)
            with atomic_path(out / "figures" / f"{figure.name}.png") as temporary:
                temporary.write_bytes(figure.png)
    text = "# Reproduced tables and figures\n\n" + "\n".join(map(markdown, report.sections))
    write_text(out / "report.md", text)
    plain = {
        s.experiment.id: dict(s.result) | {"figures": s.table.plain()} for s in report.sections
    }
    write_text(out / "report.json", json.dumps(plain, indent=1))
    write_text(out / "report.html", html(report))
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
    figures = draw_figures(experiment, result, table, out / "cells")
    return Section(experiment, result, table, figures, load_exhibit(result, out / "cells"))


# ---- Markdown ------------------------------------------------------------------------------


def markdown(section: Section, figures: bool = True) -> str:
    """A section as Markdown."""
    experiment, table = section.experiment, section.table
    lines = [f"## {_md(experiment.source)}: {_md(experiment.title)}", ""]
    lines += [
        f"> **{_md(warning)}**" if i == 0 else f"> {_md(warning)}"
        for i, warning in enumerate(section.warnings)
    ]
    lines += [""] if section.warnings else []
    heads = [_md(f"{c} {m} {arrow(m)}") for c in table.columns for m in table.metrics]
    lines.append("| " + " | ".join([_md(" / ".join(experiment.rows)), *heads]) + " |")
    lines.append("|" + "---|" * (1 + len(heads)))
    for row in table.rows:
        cells = [_markdown_cell(table.at(row, c, m)) for c in table.columns for m in table.metrics]
        lines.append("| " + " | ".join([_md(" / ".join(p for p in row if p)), *cells]) + " |")
    lines += [
        "",
        "Ours; in brackets the published figure and, where both are there, ours minus "
        "published. Bold: best of ours, underlined: second best.",
    ]
    if section.conventions:
        lines.append(CONVENTION)
    lines += [f"- {_md(note)}" for note in experiment.notes]
    if figures:
        lines += ["", *(f"![{_md(f.alt)}](figures/{f.name}.svg)" for f in section.figures)]
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    """Text for one line or cell of Markdown: no HTML, no further line, no further cell."""
    plain = " ".join(printable(text).split())
    return plain.replace("<", "&lt;").replace("|", r"\|")


def _markdown_cell(value: Value | None) -> str:
    if value is None:
        return ""
    ours = number(value.mean, value.metric)
    if ours and value.std is not None:
        ours += f" ± {number(value.std, value.metric)}"
    ours = f"**{ours}**" if value.rank == 1 else f"<u>{ours}</u>" if value.rank == 2 else ours
    if value.published is None:
        return ours
    published = number(value.published, value.metric) + value.mark
    gap = f"; {signed(value.difference, value.metric)}{value.mark}" if ours else ""
    return f"{ours} ({published}{gap})".strip()


# ---- LaTeX and CSV -------------------------------------------------------------------------


def latex(section: Section) -> str:
    """A table with booktabs; ours, and the published figures in small print below."""
    experiment, table = section.experiment, section.table
    width, labels = len(table.metrics), len(experiment.rows)
    lines = [
        f"% {_tex(experiment.source)}: {_tex(experiment.title)}",
        *(f"% {_tex(warning)}" for warning in section.warnings),
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{_tex(experiment.title)}."
        + "".join(f" {_tex(w)}" for w in section.warnings[:1])
        + r" Bold and underline: best and second best; small print: published figures."
        + (f" {_tex(CONVENTION)}" if section.conventions else "")
        + "}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * width * len(table.columns)}}}",
        r"\toprule",
    ]
    spans = [rf"\multicolumn{{{width}}}{{c}}{{{_tex(column)}}}" for column in table.columns]
    lines.append("& " * labels + " & ".join(spans) + r" \\")
    metrics = [f"{_tex(m)}{_tex_arrow(m)}" for _ in table.columns for m in table.metrics]
    heads = [_tex(name.capitalize()) for name in experiment.rows]
    lines.append(" & ".join([*heads, *metrics]) + r" \\")
    group = None
    for row, own in zip(table.rows, table.groups, strict=True):
        if own != group:
            lines.append(r"\midrule")
            if own:
                span = labels + width * len(table.columns)
                lines.append(rf"\multicolumn{{{span}}}{{l}}{{\textit{{{_tex(own)}}}}} \\")
            group = own
        values = [table.at(row, c, m) for c in table.columns for m in table.metrics]
        names = [_tex(part) for part in row]
        if any(v is not None and v.mean is not None for v in values):
            lines.append(" & ".join([*names, *(_tex_ours(v) for v in values)]) + r" \\")
            names = [""] * labels
        if any(v is not None and v.published is not None for v in values):
            lines.append(" & ".join([*names, *(_tex_published(v) for v in values)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def _tex_ours(value: Value | None) -> str:
    text = number(value.mean, value.metric) if value is not None else ""
    if text and value.std is not None:
        text += rf" $\pm$ {number(value.std, value.metric)}"
    wrap = {1: r"\textbf{%s}", 2: r"\underline{%s}"}.get(value.rank if value else 0, "%s")
    return wrap % text if text else ""


def _tex_published(value: Value | None) -> str:
    text = number(value.published, value.metric) if value is not None else ""
    mark = r"$^\dagger$" if text and value.mark else ""
    return rf"{{\scriptsize {text}{mark}}}" if text else ""


def _tex_arrow(metric: str) -> str:
    return {"↑": r" $\uparrow$", "↓": r" $\downarrow$"}.get(arrow(metric), "")


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "†": r"$^\dagger$",
    "±": r"$\pm$",
    "β": r"$\beta$",
    "·": r"$\cdot$",
}


def _tex(text: str) -> str:
    # A line end would leave a comment or a cell, and what follows would be read as LaTeX.
    return "".join(_TEX.get(c, c) for c in " ".join(printable(text).split()))


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


# ---- HTML ----------------------------------------------------------------------------------


def html(report: Report) -> str:
    """One self-contained page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("openood_interneg", "reproduce"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(number=number, signed=signed, arrow=arrow, share=_share)
    return environment.get_template("report.html").render(
        sections=report.sections, not_paper=NOT_PAPER, convention=CONVENTION, json=_pretty
    )


def _share(value: float) -> str:
    """A score or probability; small ones keep a digit that counts."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.0e}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)

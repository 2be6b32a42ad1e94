"""Tables as LaTeX."""

from __future__ import annotations

from openood_interneg.reproduce.sections import Section
from openood_interneg.reproduce.tables import CONVENTION, Value, arrow, number
from openood_interneg.settings import printable


def latex(section: Section) -> str:
    """A table with booktabs; ours, and the published figures in small print below."""
    experiment, table = section.experiment, section.table
    width, labels = len(table.metrics), len(experiment.rows)
    lines = [
        f"% {latex_text(experiment.source)}: {latex_text(experiment.title)}",
        *(f"% {latex_text(warning)}" for warning in section.warnings),
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{latex_text(experiment.title)}."
        + "".join(f" {latex_text(w)}" for w in section.warnings[:1])
        + r" Bold and underline: best and second best; small print: published figures."
        + (f" {latex_text(CONVENTION)}" if section.conventions else "")
        + "}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * width * len(table.columns)}}}",
        r"\toprule",
    ]
    spans = [rf"\multicolumn{{{width}}}{{c}}{{{latex_text(column)}}}" for column in table.columns]
    lines.append("& " * labels + " & ".join(spans) + r" \\")
    metrics = [f"{latex_text(m)}{_tex_arrow(m)}" for _ in table.columns for m in table.metrics]
    heads = [latex_text(name.capitalize()) for name in experiment.rows]
    lines.append(" & ".join([*heads, *metrics]) + r" \\")
    group = None
    for row, own in zip(table.rows, table.groups, strict=True):
        if own != group:
            lines.append(r"\midrule")
            if own:
                span = labels + width * len(table.columns)
                lines.append(rf"\multicolumn{{{span}}}{{l}}{{\textit{{{latex_text(own)}}}}} \\")
            group = own
        values = [table.at(row, c, m) for c in table.columns for m in table.metrics]
        names = [latex_text(part) for part in row]
        if any(v is not None and v.mean is not None for v in values):
            lines.append(" & ".join([*names, *(_tex_ours(v) for v in values)]) + r" \\")
            names = [""] * labels
        if any(v is not None and v.published is not None for v in values):
            lines.append(" & ".join([*names, *(_tex_published(v) for v in values)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def _tex_ours(value: Value | None) -> str:
    if value is None or value.mean is None:
        return ""
    text = number(value.mean, value.metric)
    if value.std is not None:
        text += rf" $\pm$ {number(value.std, value.metric)}"
    wrap = {1: r"\textbf{%s}", 2: r"\underline{%s}"}.get(value.rank, "%s")
    return wrap % text


def _tex_published(value: Value | None) -> str:
    if value is None or value.published is None:
        return ""
    mark = r"$^\dagger$" if value.mark else ""
    return rf"{{\scriptsize {number(value.published, value.metric)}{mark}}}"


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


def latex_text(text: str) -> str:
    # A line end would leave a comment or a cell, and what follows would be read as LaTeX.
    return "".join(_TEX.get(c, c) for c in " ".join(printable(text).split()))

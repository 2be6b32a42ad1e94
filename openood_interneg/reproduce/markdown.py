"""Reports as Markdown."""

from __future__ import annotations

from openood_interneg.reproduce.sections import Section
from openood_interneg.reproduce.tables import CONVENTION, Value, arrow, number, signed
from openood_interneg.settings import printable


def markdown(section: Section, figures: bool = True) -> str:
    """A section as Markdown."""
    experiment, table = section.experiment, section.table
    lines = [f"## {markdown_text(experiment.source)}: {markdown_text(experiment.title)}", ""]
    lines += [
        f"> **{markdown_text(warning)}**" if i == 0 else f"> {markdown_text(warning)}"
        for i, warning in enumerate(section.warnings)
    ]
    lines += [""] if section.warnings else []
    heads = [markdown_text(f"{c} {m} {arrow(m)}") for c in table.columns for m in table.metrics]
    lines.append("| " + " | ".join([markdown_text(" / ".join(experiment.rows)), *heads]) + " |")
    lines.append("|" + "---|" * (1 + len(heads)))
    for row in table.rows:
        cells = [_markdown_cell(table.at(row, c, m)) for c in table.columns for m in table.metrics]
        lines.append(
            "| " + " | ".join([markdown_text(" / ".join(p for p in row if p)), *cells]) + " |"
        )
    lines += [
        "",
        "Ours; in brackets the published figure and, where both are there, ours minus "
        "published. Bold: best of ours, underlined: second best.",
    ]
    if section.conventions:
        lines.append(CONVENTION)
    lines += [f"- {markdown_text(note)}" for note in experiment.notes]
    if figures:
        lines += [
            "",
            *(f"![{markdown_text(f.alt)}](figures/{f.name}.svg)" for f in section.figures),
        ]
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
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

"""`interneg methods`: the table of methods."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from openood_interneg.cli.console import console
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import list_methods

COLUMNS = (
    "name",
    "method",
    "paper",
    "needs",
    "memory of the stream",
    "score depends on",
    "presets",
)


def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """List the methods: paper, what each needs, what it remembers, presets."""
    if markdown:
        typer.echo(markdown_table())
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for number, column in enumerate(COLUMNS):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for method in list_methods():
        table.add_row(*_cells(method))
    console().print(table)


def markdown_table() -> str:
    """The same table in Markdown; the README's is made by this."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for method in list_methods():
        name, *rest = _cells(method)
        lines.append("| " + " | ".join([f"`{name}`", *rest]) + " |")
    return "\n".join(lines)


def _cells(method: Method) -> list[str]:
    depends = ["the image"]
    if method.order_dependent:
        depends.append("what came before")
    if method.transductive:
        depends.append("its batch")
    return [
        method.name,
        method.title,
        f"{method.venue} {method.year}, {_paper(method.paper)}",
        ", ".join(method.needs) or "-",
        method.state or "-",
        " and ".join(depends) if len(depends) < 3 else f"{depends[0]}, {depends[1]}, {depends[2]}",
        ", ".join(method.presets) or "-",
    ]


def _paper(paper: str) -> str:
    return f"arXiv {paper}" if paper[:1].isdigit() and "/" not in paper else paper


command = methods

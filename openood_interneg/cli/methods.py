"""`interneg methods`: the table of methods.

Making the table imports every method, and torch with it. Its cells are kept in the cache, under a
digest of all source files of the methods, and are read from there as long as no file changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from openood_interneg import detectors, settings
from openood_interneg.cli.console import console
from openood_interneg.data.atomic_files import default_root, write_text

if TYPE_CHECKING:  # brings torch
    from openood_interneg.detectors.method import Method

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
    for cells in rows():
        table.add_row(*cells)
    console().print(table)


def markdown_table() -> str:
    """The same table in Markdown; that of docs/methods.md is made by this."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name, *rest in rows():
        lines.append("| " + " | ".join([f"`{name}`", *rest]) + " |")
    return "\n".join(lines)


def rows() -> Sequence[Sequence[str]]:
    """The cells of the table, from the cache where the methods are those of last time."""
    kept = default_root() / "methods" / f"{_sources_digest()}.json"
    with suppress(OSError, ValueError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        if _is_table(found):
            return found
    from openood_interneg.detectors.registry import list_methods

    made = [_cells(method) for method in list_methods()]
    with suppress(OSError):  # a cache that cannot be written costs time, and nothing else
        default_root().parent.mkdir(parents=True, exist_ok=True)
        default_root().mkdir(mode=0o700, exist_ok=True)  # the whole cache is for the user alone
        write_text(kept, json.dumps(made), mode=0o600)
    return made


def _is_table(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(row, list) and len(row) == len(COLUMNS) and all(isinstance(c, str) for c in row)
        for row in found
    )


def _sources_digest() -> str:
    """Of the code that decides the table: every method's file, what they share, and this one."""
    folders = [Path(place) for package in (detectors, settings) for place in package.__path__]
    files = [file for folder in folders for file in folder.glob("*.py")]
    hasher = hashlib.blake2b(digest_size=16)
    for file in sorted([*files, Path(__file__)]):
        hasher.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return hasher.hexdigest()


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

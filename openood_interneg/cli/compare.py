"""`interneg compare`: what differs between two results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from openood_interneg.cli.console import console
from openood_interneg.evaluation.compare import differences, read_run

# Run times, what was found on disk, and figures that follow from others.
IGNORED = (
    *("seconds", "stages", "cells", "cell", "found", "computed"),
    *("difference", "ours_in_published_convention", "seal", "scores"),
)


def compare(
    a: Annotated[
        Path,
        typer.Argument(help="Result of eval or reproduce: its folder (--out), or one JSON file."),
    ],
    b: Annotated[Path, typer.Argument(help="The result to compare with.")],
    times: Annotated[bool, typer.Option("--times", help="Compare run times, too.")] = False,
) -> None:
    """Say what differs between two results: settings, versions, digests, then figures.

    Exit code 0 if nothing does, 1 if something does.
    """
    found = list(differences(_stable(read_run(a), times), _stable(read_run(b), times)))
    if not found:
        console().print("no difference" + ("" if times else " (run times aside)"))
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("what", overflow="fold")
    table.add_column(str(a), overflow="fold")
    table.add_column(str(b), overflow="fold")
    table.add_column("b - a", justify="right")
    # What a result depends on first: it explains the figures that follow.
    found.sort(key=lambda item: isinstance(item[1], float) and isinstance(item[2], float))
    for where, left, right in found:
        both = isinstance(left, (int, float)) and isinstance(right, (int, float))
        table.add_row(
            where,
            _text(left),
            _text(right),
            f"{right - left:+.4g}" if both and not isinstance(left, bool) else "",
        )
    console().print(table)
    raise typer.Exit(1)


def _stable(value: Any, times: bool) -> Any:
    """Without what differs from run to run though nothing changed."""
    if isinstance(value, dict):
        kept = value if times else {k: v for k, v in value.items() if k not in IGNORED}
        return {k: _stable(v, times) for k, v in kept.items()}
    if isinstance(value, list):
        return [_stable(item, times) for item in value]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (dict, list)):
        return f"{len(value)} entries"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


command = compare

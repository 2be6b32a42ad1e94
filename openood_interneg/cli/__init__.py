"""The `interneg` command."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from openood_interneg.cli.bare_packages import defer_inits
from openood_interneg.cli.console import ended_tidily
from openood_interneg.cli.lazy import MODULES, STYLE, add_commands

if sys.platform == "darwin":
    # Read by torch when it is imported; it warns of every operator that the CPU takes over.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

app = typer.Typer(
    name="interneg",
    help="Zero-shot out-of-distribution detection with CLIP.",
    no_args_is_help=True,
    **STYLE | {"add_completion": True},
)
add_commands(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"interneg {metadata.version('openood-interneg')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Zero-shot out-of-distribution detection with CLIP."""


def main() -> None:
    """Entry point of the console command."""
    if set(sys.argv[1:2]) & set(MODULES):
        defer_inits()
    with ended_tidily():
        app()

"""The `interneg` command."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from openood_interneg.application.detector import APPLICATION_DEFAULTS
from openood_interneg.cli.compare import compare
from openood_interneg.cli.console import ended_tidily, guarded
from openood_interneg.cli.demo import demo
from openood_interneg.cli.doctor import doctor
from openood_interneg.cli.encode import encode
from openood_interneg.cli.evaluate import evaluate
from openood_interneg.cli.methods import methods
from openood_interneg.cli.mine import mine
from openood_interneg.cli.options import INVERSION, TEXT_SPACE, with_settings
from openood_interneg.cli.reproduce import reproduce
from openood_interneg.cli.score import score

app = typer.Typer(
    name="interneg",
    help="Zero-shot out-of-distribution detection with CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(guarded(demo))
# --seeds takes the place of the setting seed where streams are ordered and drawn.
OURS = ["interneg"]
USED = (*TEXT_SPACE, *INVERSION)
app.command("encode")(guarded(with_settings(encode, methods=OURS, names=USED, without=("seed",))))
app.command("eval")(guarded(with_settings(evaluate, without=("seed",))))
app.command("mine")(guarded(with_settings(mine, methods=OURS, names=TEXT_SPACE)))
app.command("score")(guarded(with_settings(score, methods=OURS, defaults=APPLICATION_DEFAULTS)))
app.command("methods")(guarded(methods))
app.command("reproduce")(guarded(reproduce))
app.command("compare")(guarded(compare))
app.command("doctor")(guarded(doctor))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"interneg {metadata.version('openood-interneg')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Zero-shot out-of-distribution detection with CLIP."""


def main() -> None:
    """Entry point of the console command."""
    with ended_tidily():
        app()

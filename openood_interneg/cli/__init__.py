"""The `interneg` command."""

from __future__ import annotations

import typer

from openood_interneg.cli.compare import compare
from openood_interneg.cli.console import ended_tidily, guarded
from openood_interneg.cli.demo import demo
from openood_interneg.cli.doctor import doctor
from openood_interneg.cli.encode import encode
from openood_interneg.cli.evaluate import evaluate
from openood_interneg.cli.methods import methods
from openood_interneg.cli.mine import mine
from openood_interneg.cli.options import with_settings
from openood_interneg.cli.reproduce import reproduce
from openood_interneg.cli.score import score, with_interneg_settings

app = typer.Typer(
    name="interneg",
    help="Zero-shot out-of-distribution detection with CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(guarded(demo))
app.command("encode")(guarded(with_settings(encode)))
app.command("eval")(guarded(with_settings(evaluate)))
app.command("mine")(guarded(with_settings(mine)))
app.command("score")(guarded(with_interneg_settings(score)))
app.command("methods")(guarded(methods))
app.command("reproduce")(guarded(reproduce))
app.command("compare")(guarded(compare))
app.command("doctor")(guarded(doctor))


def main() -> None:
    """Entry point of the console command."""
    with ended_tidily():
        app()

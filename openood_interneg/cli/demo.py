"""`interneg demo`: the embedded miniature, end to end, nothing to download."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from openood_interneg.cli.console import say
from openood_interneg.cli.evaluate import DEFAULT_METHODS, evaluate, parse_seeds
from openood_interneg.cli.options import plan_methods, split_baselines
from openood_interneg.cli.workspace import WorkspaceOptions, check_out_folder, draw_miniature
from openood_interneg.data.store import default_root, write_text

# With the method that is best on the drawings among those that need no file of the user's.
METHODS = f"{DEFAULT_METHODS},rationeg"


def demo(
    methods: Annotated[str, typer.Option(help="Names, comma-separated, or all.")] = METHODS,
    seeds: Annotated[str, typer.Option(help="Seeds of the stream's order and draws.")] = "0,1,2",
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, .csv, scores and the page.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where images and features are kept.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table.")] = False,
) -> None:
    """Draw the miniature benchmark and evaluate methods on it, by the code path of `eval`.

    ID: ten kinds of drawn objects. Near OOD: other objects. Far OOD: textures, letters, noise.
    The CLIP is small, but real: its text tower knows WordNet's words. A page shows the
    table, score histograms, false alarms along the stream, and images found, missed and falsely
    accused.
    """
    check_out_folder(out)
    evaluation = evaluate(
        settings={},
        workspace=WorkspaceOptions(
            data_root=draw_miniature(cache_dir, quiet),
            device="cpu",
            cache_dir=cache_dir,
            quiet=quiet,
        ),
        methods=methods,
        seeds=seeds,
        out=out,
    )
    from openood_interneg.cli.demo_page import TRIES, page  # draws: the table comes first

    ours, _ = split_baselines(methods)
    text = page(evaluation, plan_methods(ours, {}) if ours else [], parse_seeds(seeds))
    path = (out or (cache_dir or default_root()) / "demo") / "index.html"
    write_text(path, text)
    say(f"page: {path.absolute()}" + ("" if show else "  (--open opens it)"), quiet)
    if show and not webbrowser.open(path.absolute().as_uri()):
        say("no browser could be opened; open the page by hand", quiet)
    for what, command in TRIES:
        say(f"next, {what}: {command}", quiet)


command = demo

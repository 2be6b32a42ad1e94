"""`interneg demo`: the embedded miniature, end to end, nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openood_interneg.cli.demo_page import open_page
from openood_interneg.cli.evaluate import DEFAULT_METHODS, evaluate
from openood_interneg.cli.workspace import WorkspaceOptions, check_out_folder, draw_miniature
from openood_interneg.data.store import default_root


def demo(
    methods: Annotated[str, typer.Option(help="Names, comma-separated, or all.")] = DEFAULT_METHODS,
    seeds: Annotated[str, typer.Option(help="Seeds of the stream's order and draws.")] = "0,1,2",
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, .csv and scores.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where images and features are kept.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Write a page with images, too, and open it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table.")] = False,
) -> None:
    """Draw the miniature benchmark and evaluate methods on it, by the code path of `eval`.

    ID: ten kinds of drawn objects. Near OOD: other objects. Far OOD: textures, letters, noise.
    The CLIP is small, but real: its text tower knows WordNet's words.
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
    if show:
        folder = out or cache_dir or default_root()
        open_page(folder / "demo.html", evaluation.results, evaluation.benchmark, quiet)


command = demo

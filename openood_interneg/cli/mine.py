"""`interneg mine`: the negative texts of a benchmark, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from openood_interneg.cli.arguments import Config, Preset
from openood_interneg.cli.console import console, say
from openood_interneg.cli.options import TEXT_SPACE, plan_interneg, with_settings
from openood_interneg.cli.workspace import (
    WorkspaceOptions,
    check_out_file,
    open_workspace,
    with_workspace,
)
from openood_interneg.data.store import atomic_path
from openood_interneg.evaluation.results import csv_frame
from openood_interneg.settings import SettingsError


def mine(
    settings: dict,
    workspace: WorkspaceOptions,
    preset: Preset = None,
    config: Config = None,
    show: Annotated[int, typer.Option(min=0, help="How many of each kind to print.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="CSV: word, part of speech, deviation, margin.")
    ] = None,
) -> None:
    """Mine negative texts (Eqs. 7-10) and show or write them, most deviating first."""
    check_out_file(out)
    method, chosen = plan_interneg(settings, config, preset)
    if chosen.negatives == "none":
        raise SettingsError("negatives is 'none': there is nothing to mine")
    with open_workspace(workspace) as (evaluation, _):
        evaluation.check([(method, chosen)])
        mined = evaluation.source.mined(chosen)
    data = pd.DataFrame(
        {
            "word": mined.words,
            "part_of_speech": mined.parts_of_speech,
            "deviation_degree": mined.deviation.tolist(),
            "margin": mined.margin.tolist(),
        }
    )
    counts = ", ".join(f"{count} {kind}s" for kind, count in mined.passing.items())
    say(f"qualified: {counts}; kept {len(data)}", workspace.quiet)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as temporary:
            csv_frame(data).to_csv(temporary, index=False)
        say(f"written to {out}", workspace.quiet)
    if show:
        console().print(_table(data, show))


def _table(data: pd.DataFrame, show: int) -> Table:
    table = Table(
        title="negative texts, most deviating first",
        caption="deviation degree: Eq. 10, summed over classes; margin: max_i cos(e, p_i) - b_i, "
        "below 0 where the criterion (Eq. 9) holds",
        header_style="bold",
    )
    for name in ("word", ""):
        table.add_column(name)
    for name in ("deviation", "margin"):
        table.add_column(name, justify="right")
    for _, part in data.groupby("part_of_speech", sort=False):
        for row in part.head(show).itertuples():
            table.add_row(
                row.word, row.part_of_speech, f"{row.deviation_degree:.3f}", f"{row.margin:.4f}"
            )
        table.add_section()
    return table


command = with_settings(
    with_workspace(mine, without=("limit", "fsood")), methods=["interneg"], names=TEXT_SPACE
)

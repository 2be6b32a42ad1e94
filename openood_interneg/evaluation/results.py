"""Results for people and for programs: terminal table, CSV, JSON, score files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from openood_interneg.data.store import atomic_path, write_text
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.metrics import METRICS
from openood_interneg.evaluation.rows import Results
from openood_interneg.settings import SettingsError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("benchmark", "backbone", "method", "protocol", "seed", "dataset", *METRICS)
GROUPS = {"nearood": "near mean", "farood": "far mean"}


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the columns of `results.csv`."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a leading = + - @ gets an apostrophe.

    Numbers, also those that are written as text, stay what they are.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_frame(data: pd.DataFrame) -> pd.DataFrame:
    """The same frame, its texts as `csv_cell` writes them."""
    texts = data.select_dtypes(exclude="number").columns
    cells = {name: {text: csv_cell(text) for text in data[name].unique()} for name in texts}
    return data.assign(**{name: data[name].map(cells[name]) for name in texts})


def summary(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Mean and standard deviation (population) over seeds, in the order of the rows."""
    keys = [c for c in COLUMNS if c not in ("seed", *METRICS)]
    groups = frame(rows).groupby(keys, sort=False)
    mean = groups[list(METRICS)].mean()
    std = groups[list(METRICS)].std(ddof=0).add_suffix("_std")
    return mean.join(std).join(groups.size().rename("seeds")).reset_index()


def results_table(rows: Sequence[Mapping[str, Any]], fpr: str = "FPR@95") -> Table:
    """The paper's kind of table: one line per method, FPR@95 and AUROC per data set.

    The best figure of a column is bold. Several seeds give mean and standard deviation.
    """
    data = summary(rows)
    datasets = list(dict.fromkeys(data["dataset"]))
    first = data.iloc[0]
    seeds = int(data["seeds"].max())
    table = Table(
        title=f"{first['benchmark']} · {first['backbone']} · protocol {first['protocol']}"
        + (f" · {seeds} seeds, mean and ± standard deviation" if seeds > 1 else ""),
        caption=f"{fpr} ↓ and AUROC ↑ in percent; ACC is the ID accuracy. "
        + ("OOD is the positive class." if fpr == "FPR@95" else "ID is the positive class."),
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_lines=False,
    )
    table.add_column("\nmethod", no_wrap=True)
    for name in datasets:
        # The name stands over both of its columns, so it is cut to what fits the first.
        table.add_column(f"{_short(GROUPS.get(name, name))}\n{fpr}", justify="right", no_wrap=True)
        table.add_column("\nAUROC", justify="right", no_wrap=True)
    table.add_column("\nACC", justify="right", no_wrap=True)
    by = data.set_index(["method", "dataset"])
    best = {}
    for name in datasets:
        part = data[data["dataset"] == name]
        best[name, fpr], best[name, "AUROC"] = part[fpr].min(), part["AUROC"].max()
    for method in dict.fromkeys(data["method"]):
        means: list[str | Text] = [title(method)]
        spreads: list[str | Text] = [""]
        for name in datasets:
            row = by.loc[(method, name)]
            for metric in (fpr, "AUROC"):
                text, spread = f"{row[metric]:.2f}", f"±{row[f'{metric}_std']:.2f}"
                # as printed: figures that look the same are equally good
                is_best = text == f"{best[name, metric]:.2f}"
                means.append(Text(text, "bold green" if is_best else ""))
                spreads.append(Text(spread if spread != "±0.00" else "", "dim"))
        means.append(f"{by.loc[(method, datasets[0])]['ACC']:.2f}")
        table.add_row(*means)
        if any(spreads):
            table.add_row(*spreads, "")
    return table


def narrow_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same figures for a narrow terminal: one line per data set and method."""
    data = summary(rows)
    first = data.iloc[0]
    table = Table(
        title=f"{first['benchmark']} · {first['backbone']} · {first['protocol']}",
        caption="percent, OOD is the positive class",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("data set", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for name in ("FPR@95", "AUROC", "ACC"):
        table.add_column(name, justify="right", no_wrap=True)
    for dataset, part in data.groupby("dataset", sort=False):
        name = str(dataset)
        best = {"FPR@95": part["FPR@95"].min(), "AUROC": part["AUROC"].max()}
        for number, row in enumerate(part.to_dict("records")):
            cells: list[str | Text] = [
                _short(GROUPS.get(name, name), 16) if number == 0 else "",
                title(row["method"]),
            ]
            for metric, value in best.items():
                text = f"{row[metric]:.2f}"
                best_one = text == f"{value:.2f}"
                spread = f"±{row[f'{metric}_std']:.2f}"
                cells.append(
                    Text.assemble(
                        (text, "bold green" if best_one else ""),
                        (spread if spread != "±0.00" else "", "dim"),
                    )
                )
            table.add_row(*cells, f"{row['ACC']:.2f}")
        table.add_section()
    return table


def _short(name: str, width: int = 10) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def title(method: str) -> str:
    """How a method's name is printed."""
    try:
        return get_method(method).title
    except SettingsError:
        return method


def write_results(folder: Path, results: Results, run: Mapping[str, Any]) -> None:
    """Writes results.json, results.csv, summary.csv, run.json and scores/*.npz atomically.

    Args:
        folder: made where it is missing.
        results: of an evaluation.
        run: what the run was (settings, versions, digests), for run.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{column: row[column] for column in COLUMNS} for row in results.rows]
    write_text(folder / "results.json", json.dumps(rows, indent=1))
    write_text(folder / "results.csv", csv_frame(frame(rows)).to_csv(index=False))
    write_text(folder / "summary.csv", csv_frame(summary(rows)).to_csv(index=False))
    write_text(folder / "run.json", json.dumps(run, indent=1, default=str))
    for (method, seed, dataset), scores in results.scores.items():
        path = folder / "scores" / f"{method}.seed{seed}.{dataset}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            arrays = {name: a for name, a in vars(scores).items() if a is not None}
            np.savez_compressed(file, **arrays)

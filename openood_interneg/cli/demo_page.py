"""The page of `interneg demo --open`: the table, and images with their scores."""

from __future__ import annotations

import base64
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openood_interneg.cli.console import say
from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.store import write_text
from openood_interneg.evaluation.image_scores import ID_SET, image_frame
from openood_interneg.evaluation.results import GROUPS, summary, title
from openood_interneg.evaluation.rows import Results

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 8  # images of a set, at each end


def open_page(path: Path, results: Results, benchmark: Benchmark, quiet: bool) -> None:
    """Writes the page and opens it in the browser; without one it says where the page is.

    Args:
        path: of the page.
        results: of an evaluation of the benchmark, whose last method is shown with images.
        benchmark: that was evaluated.
        quiet: whether to say nothing where the browser opens.
    """
    write_text(path, page(results, benchmark))
    opened = webbrowser.open(path.resolve().as_uri())
    say(f"page at {path}" if opened else f"no browser could be opened; the page is {path}", quiet)


def page(results: Results, benchmark: Benchmark) -> str:
    """One self-contained HTML page, from the arguments of `open_page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("openood_interneg", "cli"), autoescape=True, undefined=StrictUndefined
    )
    figures = summary(results.rows)
    sets = list(dict.fromkeys(figures["dataset"]))
    by = figures.set_index(["method", "dataset"])
    methods = list(dict.fromkeys(figures["method"]))
    method, seed, stream = list(results.scores)[-1]
    scores = image_frame(results, benchmark)
    scores = scores[(scores["method"] == method) & (scores["seed"] == seed)]
    of_stream = scores["stream"] == stream
    shown = {"ID": scores[of_stream & (scores["set"] == ID_SET)]}
    shown |= {images.name: scores[scores["set"] == images.name] for images in benchmark.ood}
    return environment.get_template("demo.html").render(
        seeds=int(figures["seeds"].max()),
        sets=[GROUPS.get(name, name) for name in sets],
        rows=[
            (title(name), [tuple(by.loc[(name, one), ["FPR@95", "AUROC"]]) for one in sets])
            for name in methods
        ],
        method=title(method),
        galleries=[(name, _sides(data)) for name, data in shown.items()],
    )


def _sides(data: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    ranked = data.sort_values("score", ascending=False, kind="stable")
    ends = {"Highest": ranked.head(SHOWN), "Lowest": ranked.tail(SHOWN)}
    return [(side, [_image(row) for row in end.to_dict("records")]) for side, end in ends.items()]


def _image(row: dict[Any, Any]) -> dict[str, Any]:
    data = base64.b64encode(Path(row["file"]).read_bytes()).decode()
    return row | {"data": data, "file": Path(row["file"]).name}

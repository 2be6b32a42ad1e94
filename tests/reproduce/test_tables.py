"""Tables: ours beside the published figures, with the convention of each FPR@95."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import yaml

from openood_interneg.data.store import Store
from openood_interneg.reproduce.experiment_files import (
    list_experiments,
    load_experiment,
)
from openood_interneg.reproduce.latex import latex
from openood_interneg.reproduce.markdown import markdown
from openood_interneg.reproduce.options import Options
from openood_interneg.reproduce.page import html
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.sections import Section
from openood_interneg.reproduce.tables import build_table
from openood_interneg.reproduce.write import csv_text


def nothing_run(name: str, folder: Path) -> Section:
    """An experiment whose data are not there."""
    experiment = load_experiment(name)
    run = Reproduction(Options(data_root=folder), Store(None), folder / "out", lambda line: None)
    result = run.run(experiment)
    return Section(experiment, result, build_table(experiment, result), [], None)


@pytest.mark.parametrize("name", list_experiments())
def test_every_published_rate_says_its_positive_class(name):
    experiment = load_experiment(name)
    for value in build_table(experiment, {"cells": [], "substitute": None}).values.values():
        plain = value.plain()
        if value.metric == "FPR@95" and value.published is not None:
            assert plain["published_convention"] in ("OOD positive", "ID positive")
        else:
            assert plain["published_convention"] == ""


def test_a_row_published_twice_keeps_the_convention_of_each_figure(tmp_path, block):
    """The last block of a row decided for all of its columns."""
    own = block("table3")
    head = {"source": "Table 3", "columns": ["Average"]}
    row = {"row": ["Inter SNT"], "values": [90.0, 30.0]}
    own["published"] = [
        head | {"fpr": "id", "rows": [row]},
        head | {"fpr": "ood", "columns": ["Elsewhere"], "rows": [row]},
    ]
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    figures = {"AUROC": 91.0, "FPR@95": 25.0, "FPR@95(ID+)": 33.0}
    cell = {"part": "Average", "point": "", "backbone": "x", "seed": 0, "method": "Inter SNT"}
    result = {"cells": [cell | {"sets": {"a": figures}}], "substitute": None}
    table = build_table(load_experiment(path), result)
    value = table.at(("Inter SNT",), "Average", "FPR@95")
    assert (value.mean, value.other, value.difference) == (25.0, 33.0, 3.0)
    other = table.at(("Inter SNT",), "Elsewhere", "FPR@95")
    assert (value.mark, other.mark) == ("†", "")


def test_tables_show_the_convention_even_where_nothing_was_run(tmp_path):
    shown = nothing_run("table1", tmp_path)
    text = markdown(shown)
    assert "(25.40†)" in text and "(14.04)" in text and "ID as the positive class" in text
    tex = latex(shown)
    assert r"25.40$^\dagger$" in tex and r"14.04$^\dagger$" not in tex
    assert "ID as the positive class" in tex
    page = html([shown])
    assert "25.40†" in page and "14.04<" in page and "ID as the positive class" in page
    rows = {
        (r["method"], r["metric"]): r["published_convention"]
        for r in csv.DictReader(io.StringIO(csv_text(shown)))
        if r["column"] == "Average"
    }
    assert rows["NegLabel", "FPR@95"] == "ID positive"
    assert rows["InterNeg", "FPR@95"] == "OOD positive"
    assert rows["InterNeg", "AUROC"] == ""


@pytest.mark.slow
def test_differences_use_the_published_convention(everything):
    _, _, results = everything
    table = build_table(load_experiment("table1"), results["table1"])
    value = table.at(("MCM",), "Average", "FPR@95")
    cells = [c for c in results["table1"]["cells"] if c["method"] == "MCM"]
    other = np.mean([values["FPR@95(ID+)"] for values in cells[0]["sets"].values()])
    assert value.difference == pytest.approx(other - 43.93)
    own = table.at(("InterNeg",), "Average", "FPR@95")
    assert own.difference == pytest.approx(own.mean - 14.04) and own.other is None


def test_only_methods_are_rivals():
    """Near and far OOD of one method are not ranked against each other; seeds stand in order."""
    experiment = load_experiment("table9")
    cells = [
        {"part": part, "seed": seed, "method": "InterNeg", "sets": {"a": {"AUROC": 90.0 + seed}}}
        for part in ("Four-OOD", "Near-OOD")
        for seed in (0, 1, 10)
    ]
    table = build_table(experiment, {"cells": cells, "substitute": "miniature"})
    assert table.columns[:5] == ["0", "1", "10", "Mean", "Std"]
    assert not any(value.rank or value.published_rank for value in table.values.values())
    experiment = load_experiment("table1")
    cells = [
        {"part": "Average", "seed": 0, "method": name, "sets": {"a": {"AUROC": score}}}
        for name, score in (("MCM", 80.0), ("CSP", 90.0), ("InterNeg", 85.0))
    ]
    table = build_table(experiment, {"cells": cells, "substitute": "miniature"})
    ranks = {row[0]: table.at(row, "Average", "AUROC").rank for row in table.rows}
    assert (ranks["CSP"], ranks["InterNeg"], ranks["MCM"]) == (1, 2, 0)

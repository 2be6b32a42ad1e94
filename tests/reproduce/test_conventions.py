"""Two figures are called FPR@95: every published one says which it is, in data and in tables."""

import csv
import io
from pathlib import Path

import pytest
import yaml

from openood_interneg.data.store import Store
from openood_interneg.reproduce.experiment_files import (
    experiments_root,
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
from openood_interneg.settings import SettingsError


def block(name: str = "table1"):
    return yaml.safe_load((experiments_root() / f"{name}.yml").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("fpr", [None, "openood"])
def test_a_published_rate_without_its_positive_class_is_refused(tmp_path, fpr):
    own = block("table3")
    for row in own["published"]:
        row.pop("fpr")
        row |= {"fpr": fpr} if fpr else {}
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    with pytest.raises(SettingsError, match="fpr: ood or fpr: id"):
        load_experiment(path)


def test_a_row_published_twice_keeps_the_convention_of_each_figure(tmp_path):
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


# ---- files and parts of experiments ----------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        ("title: a\ntitle: b\n", "'title' stands twice"),
        ("- 1\n", "must map names to values"),
        ("title: [", "not valid YAML"),
        ("title: x\nmethods: 3\nparts: 4\n", "not an experiment"),
        ("", "no key 'parts'"),
    ],
)
def test_a_faulty_experiment_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.yml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        load_experiment(path)
    assert "mine.yml" in str(caught.value)


def test_an_experiment_with_an_alias_bomb_is_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    path = tmp_path / "mine.yml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SettingsError, match="expands to more"):
        load_experiment(path)


def test_an_experiment_saved_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xef\xbb\xbf" + (experiments_root() / "table3.yml").read_bytes())
    assert load_experiment(path).title == load_experiment("table3").title


def test_a_part_of_a_single_set_is_run_on_the_papers_data_alone():
    experiment = load_experiment("figure3")
    assert [part.name for part in experiment.parts_for(None)] == ["SUN", "Average"]
    assert [part.name for part in experiment.parts_for("realbench10")] == ["Average"]

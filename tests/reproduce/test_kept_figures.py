"""A report whose results did not change is there again without drawing or running anything."""

import json
import re
import shutil

import numpy as np
import pytest

from openood_interneg.data.store import Store
from openood_interneg.reproduce import kept_figures, panels, style
from openood_interneg.reproduce.experiment_files import load_experiment
from openood_interneg.reproduce.kept_figures import FigureFiles
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.sealed import read_sealed
from openood_interneg.reproduce.write import write_report, write_result

SOME = ("table2", "table3", "table12", "figure3", "figure4")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def drawn(monkeypatch):
    """Names of the figures that are drawn."""
    names = []
    as_svg = style.as_svg
    monkeypatch.setattr(style, "as_svg", lambda f, name: names.append(name) or as_svg(f, name))
    return names


@pytest.fixture
def report(everything, tmp_path):
    """A folder with some finished experiments and their report."""
    out, _, _ = everything
    shutil.copytree(out / "cells", tmp_path / "cells")
    (tmp_path / "experiments").mkdir()
    for path in (out / "experiments").iterdir():
        if path.stem in SOME:
            shutil.copy(path, tmp_path / "experiments")
    write_report(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_second_run_draws_and_times_nothing_and_gives_the_same_bytes(
    world, options, report, drawn
):
    before = contents(report)
    run = Reproduction(options(seeds=(0,)), Store(world / "store"), report, lambda line: None)
    for name in SOME:
        experiment = load_experiment(name)
        result = run.run(experiment)
        assert result["computed"] == 0 and result["found"], name
        write_result(report, experiment, result)
    write_report(report)
    assert drawn == []
    assert contents(report) == before


@pytest.mark.slow
def test_only_figures_whose_values_changed_are_drawn_anew(report, drawn):
    before = contents(report)
    result = read_sealed(report / "experiments" / "figure3.json")
    changed = next(cell for cell in result["cells"] if "sets" in cell)
    own = next(iter(changed["sets"].values()))
    own["AUROC"] += 1.0
    experiment = load_experiment("figure3")
    write_result(report, experiment, result)
    write_report(report)
    assert len(drawn) == 1 and re.match("figure3_ratios_.*auroc", drawn[0]), drawn
    own["AUROC"] -= 1.0
    write_result(report, experiment, result)
    write_report(report)
    assert len(drawn) == 2 and contents(report) == before


@pytest.mark.slow
def test_other_code_another_library_or_a_lost_or_edited_file_draw_anew(
    tmp_path, drawn, monkeypatch
):
    def draw(scale=1.0):
        files = FigureFiles(tmp_path, "mine")
        scores = np.linspace(0, scale, 20), np.linspace(0, 1, 30)
        made = files.figure("mine_a", "t", "alt", panels.histogram, *scores, "far")
        files.write_record()
        return made

    first = draw()
    assert "currentColor" in first.svg and first.png[:4] == b"\x89PNG"
    assert draw() == first and len(drawn) == 1
    assert draw(scale=0.9).svg != first.svg and draw() == first and len(drawn) == 3
    for spoil in (
        lambda: (tmp_path / "mine_a.png").unlink(),
        lambda: (tmp_path / "mine_a.svg").write_text("<svg/>"),
        lambda: monkeypatch.setattr(kept_figures, "drawing_code", lambda: "later code"),
    ):
        count = len(drawn)
        spoil()
        assert draw() == first and len(drawn) == count + 1
        assert draw() == first and len(drawn) == count + 1
    record = json.loads((tmp_path / "mine.json").read_text())
    record["mine_a"]["inputs"] = "someone's"
    (tmp_path / "mine.json").write_text(json.dumps(record))
    count = len(drawn)
    with pytest.warns(UserWarning, match="damaged or was edited"):
        assert draw() == first
    assert len(drawn) == count + 1


def test_inputs_are_told_apart_by_value_type_and_order():
    plain = kept_figures._plain
    assert plain({"a": 1, "b": 2}) != plain({"b": 2, "a": 1})  # lines keep their order
    assert plain(np.arange(3)) != plain(np.arange(3.0))
    assert plain(np.zeros((2, 3))) != plain(np.zeros((3, 2)))
    assert plain((1, [2.5, None], "x")) == [1, [2.5, None], "x"]
    with pytest.raises(TypeError, match="plain values"):
        plain(object())

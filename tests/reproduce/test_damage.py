"""Finished cells on disk: what is not what was computed is computed anew, with a warning."""

import json
import shutil
import warnings

import pytest

from openood_interneg.data.store import Store
from openood_interneg.reproduce.exhibits import load_exhibit
from openood_interneg.reproduce.experiment_files import load_experiment
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.write import write_report, write_result

pytestmark = pytest.mark.slow

NAME = "table2"


@pytest.fixture(scope="module")
def finished(world, options, tmp_path_factory):
    """A folder with one finished experiment, its result, and how to run it in another folder."""
    out = tmp_path_factory.mktemp("cells")
    store = Store(world / "store")

    def run(folder):
        experiment = load_experiment(NAME)
        result = Reproduction(options(), store, folder, lambda line: None).run(experiment)
        write_result(folder, experiment, result)
        return result

    return out, run(out), run


def figures(result):
    return [(cell["cell"], cell["sets"]) for cell in result["cells"] if "sets" in cell]


def scored(folder, result):
    """Files of a cell that keeps its scores: JSON, npz."""
    name = next(cell["cell"] for cell in result["cells"] if "scores" in cell)
    return folder / "cells" / f"{name}.json", folder / "cells" / f"{name}.npz"


def emptied(path, scores):
    path.write_text("{}")


def truncated(path, scores):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edited(path, scores):
    cell = json.loads(path.read_text())
    next(iter(cell["sets"].values()))["AUROC"] = 99.9
    path.write_text(json.dumps(cell))


def exchanged(path, scores):
    other = next(p for p in sorted(path.parent.glob("*.json")) if p != path)
    shutil.copy(other, path)


def garbage(path, scores):
    path.write_bytes(b"[" * 100_000)


def listed(path, scores):
    path.write_text("[1, 2]")


def scores_gone(path, scores):
    scores.unlink()


def scores_changed(path, scores):
    scores.write_bytes(scores.read_bytes()[:-9])


DAMAGES = [
    *(emptied, truncated, edited, exchanged, garbage, listed),
    *(scores_gone, scores_changed),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_cell_is_computed_anew_with_a_warning(finished, tmp_path, damage):
    out, before, run = finished
    shutil.copytree(out / "cells", tmp_path / "cells")
    damage(*scored(tmp_path, before))
    with pytest.warns(UserWarning, match="not used|computed anew"):
        again = run(tmp_path)
    assert again["computed"] == 1 and again["found"] == before["found"] + before["computed"] - 1
    assert figures(again) == figures(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tmp_path)["computed"] == 0


@pytest.mark.parametrize("damage", [emptied, truncated, edited])
def test_a_damaged_exhibit_or_result_never_reaches_a_report(finished, tmp_path, damage):
    out, before, run = finished
    shutil.copytree(out / "cells", tmp_path / "cells")
    write_result(tmp_path, load_experiment(NAME), before)
    exhibit = tmp_path / "cells" / f"{before['exhibit']['cell']}.json"
    wanted = exhibit.read_bytes()
    if damage is edited:
        exhibit.write_text(exhibit.read_text().replace('"of"', '"off"'))
    else:
        damage(exhibit, None)
    with pytest.warns(UserWarning, match="not used"):
        assert load_exhibit(before, tmp_path / "cells") is None
    with pytest.warns(UserWarning, match="not used"):
        run(tmp_path)
    assert json.loads(exhibit.read_bytes()).keys() == json.loads(wanted).keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_exhibit(before, tmp_path / "cells") is not None

    result = tmp_path / "experiments" / f"{NAME}.json"
    if damage is edited:
        result.write_text(result.read_text().replace('"AUROC": ', '"AUROC": 1', 1))
    else:
        damage(result, None)
    with pytest.warns(UserWarning, match="not used"):
        assert write_report(tmp_path).sections == []


def test_damaged_scores_are_not_drawn(finished, tmp_path):
    out, before, _ = finished
    shutil.copytree(out / "cells", tmp_path / "cells")
    write_result(tmp_path, load_experiment(NAME), before)
    scores_changed(*scored(tmp_path, before))
    with pytest.warns(UserWarning, match="its curves are left out"):
        write_report(tmp_path)

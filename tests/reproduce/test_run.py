"""Running experiments on a small drawn benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.store import Store
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.reproduce.experiment_files import (
    list_experiments,
    load_experiment,
)
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.tables import build_table
from openood_interneg.vlm.factory import load_backbone

pytestmark = pytest.mark.slow

SMALL = {"NegLabel", "CSP"}


@pytest.mark.parametrize("name", list_experiments())
def test_every_experiment_runs_on_the_miniature(everything, name):
    out, _, results = everything
    result = results[name]
    ran = [cell for cell in result["cells"] if "sets" in cell]
    missing = {c["method"] for c in result["cells"] if "sets" not in c}
    # 27 words do not make the 100 groups of two methods' presets: their places stay empty
    assert missing <= ({"NegLabel", "CSP", "AdaNeg", "InterNeg"} if name == "table13" else SMALL)
    for reason in result["unavailable"]:
        assert "100 groups" in reason or "common-20k.txt" in reason, reason
    assert ran and result["substitute"] == "miniature"
    table = build_table(load_experiment(name), result)
    ours = [value for value in table.values.values() if value.mean is not None]
    if name == "table9":
        assert {"0", "1", "Mean", "Std"} <= {value.column for value in ours}
    assert ours and all(np.isfinite(value.mean) for value in ours)
    provenance = json.loads((out / "experiments" / f"{name}.json").read_text())["provenance"]
    for key in ("versions", "settings", "seeds", "device", "seconds", "stages", "protocol", "fpr"):
        assert provenance[key], key
    weights = [b["weights"] for b in provenance["backbones"].values()]
    lists = [b["lists"]["test"]["digest"] for b in provenance["benchmarks"].values()]
    assert all(map(len, weights + lists)) and provenance["corpora"]
    assert str(Path.cwd()) not in json.dumps(provenance)


def test_a_replay_gives_what_the_images_give(world, everything):
    _, _, results = everything
    cell = next(c for c in results["table3"]["cells"] if c["method"] == "Inter SNT + Inter ENT")
    benchmark = load_benchmark("miniature", world / "data", limit=6)
    evaluation = Evaluation(benchmark, load_backbone("miniature"), Store(None))
    settings = get_method("interneg").make_settings(
        {k: v for k, v in cell["settings"].items() if k != "seed"}
    )
    for row in evaluation.run("interneg", settings, seed=0):
        if row["dataset"] in cell["sets"]:
            for metric in ("AUROC", "FPR@95", "ACC"):
                assert row[metric] == pytest.approx(cell["sets"][row["dataset"]][metric], abs=1e-4)


def test_an_interrupted_run_continues(world, tmp_path, options):
    experiment = load_experiment("table3")

    class Interrupted(Exception):
        pass

    def stop(line):
        if "3/9" in line:
            raise Interrupted

    store = Store(world / "store")
    with pytest.raises(Interrupted):
        Reproduction(options(), store, tmp_path, stop).run(experiment)
    finished = sorted((tmp_path / "cells").glob("*.json"))
    assert len(finished) == 3
    times = [path.stat().st_mtime_ns for path in finished]
    result = Reproduction(options(), store, tmp_path, lambda line: None).run(experiment)
    assert (result["found"], result["computed"]) == (3, 6)
    assert [path.stat().st_mtime_ns for path in finished] == times
    # another seed is another cell
    other = Reproduction(options(seeds=(1,)), store, tmp_path, lambda line: None)
    assert other.run(experiment)["found"] == 0

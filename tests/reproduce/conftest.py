"""Experiments on a small drawn benchmark; the tests of this folder share what they ran."""

import dataclasses
import shutil

import pytest
import yaml

from openood_interneg.data.store import Store
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.reproduce.experiment_files import (
    experiments_root,
    list_experiments,
    load_experiment,
)
from openood_interneg.reproduce.options import Options
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.write import write_report, write_result


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Images, a corpus of 27 words and an empty store, shared by all tests."""
    root = tmp_path_factory.mktemp("reproduce")
    write_benchmark(root / "data", seed=1, train_per_class=16, test_per_class=6, near=24, far=16)
    first = "river engine cloud ladder theory party color machine bread music".split()
    words = [f"{a}{b},noun" for a in first for b in ("", " house")]
    words += [f"{a},adjective" for a in "red happy old bright quiet wooden wide".split()]
    (root / "corpus.csv").write_text("\n".join(["word,part_of_speech", *words]), encoding="utf-8")
    lists = root / "lists"
    lists.mkdir()
    shutil.copy(root / "corpus.csv", lists / "part-of-speech.csv")
    return root


@pytest.fixture(scope="session")
def options(world):
    """Makes the options of a run on the small benchmark: `options(limit=3)`."""
    chosen = Options(
        bench="miniature",
        data_root=world / "data",
        backbones=("miniature",),
        limit=6,
        corpus=str(world / "corpus.csv"),
        corpora=world / "lists",
    )
    return lambda **changes: dataclasses.replace(chosen, **changes)


@pytest.fixture
def block():
    """Content of an experiment's file, to be changed: `block("table3")`."""

    def read(name):
        return yaml.safe_load((experiments_root() / f"{name}.yml").read_text(encoding="utf-8"))

    return read


@pytest.fixture(scope="session")
def everything(world, options):
    """All experiments run once; (folder, lines told, results by name)."""
    out, told, results = world / "out", [], {}
    run = Reproduction(options(seeds=(0,)), Store(world / "store"), out, told.append)
    for name in list_experiments():
        # every seed inverts anew: two are enough to see that seeds become columns
        run.options = options(seeds=(0, 1) if name == "table9" else (0,))
        experiment = load_experiment(name)
        results[name] = run.run(experiment)
        write_result(out, experiment, results[name])
    write_report(out)
    return out, told, results

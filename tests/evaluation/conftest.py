"""The benchmarks of photographs, for the tests that need them."""

import os

import pytest

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.store import Store
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.vlm.factory import load_backbone


@pytest.fixture(scope="session")
def evaluations(realbench, tmp_path_factory):
    """Name of a benchmark -> its evaluation; all processes of a run share what is computed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    store = Store(folder / "realbench-store")
    backbone = load_backbone(realbench / "model" / "clip.safetensors")
    made = {}

    def get(bench):
        if bench not in made:
            made[bench] = Evaluation(load_benchmark(bench, realbench), backbone, store)
        return made[bench]

    return get

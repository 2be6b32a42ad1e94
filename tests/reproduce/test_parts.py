"""The data of an experiment's parts."""

import numpy as np

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.reproduce.experiment_files import (
    load_experiment,
)
from openood_interneg.reproduce.parts import limited, ratio_counts, with_proxies_from_test


def test_ratio_counts():
    assert ratio_counts((10_000, 10), 50_000, 10_000) == (10_000, 10)
    assert ratio_counts((10_000, 1_000), 2_000, 1_000) == (2_000, 200)
    assert ratio_counts((10_000, 10), 100, 100) == (100, 1)


def test_proxies_from_test_images_are_not_tested(world):
    whole = load_benchmark("miniature", world / "data")
    cut = with_proxies_from_test(whole, 2)
    assert len(cut.train) == 20 and np.bincount(cut.train.labels).tolist() == [2] * 10
    assert not set(cut.train.paths) & set(cut.test.paths)
    assert len(cut.train) + len(cut.test) == len(whole.test)
    assert len(limited(cut, 7).test) == 7


def test_a_part_of_a_single_set_is_run_on_the_papers_data_alone():
    experiment = load_experiment("figure3")
    assert [part.name for part in experiment.parts_for(None)] == ["SUN", "Average"]
    assert [part.name for part in experiment.parts_for("realbench10")] == ["Average"]

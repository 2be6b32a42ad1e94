"""Every experiment feeds a method the features it takes: of the image, its views or its patches."""

import pickle

import numpy as np
import pytest

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.encode import Views, kind_name
from openood_interneg.data.store import Store
from openood_interneg.data.views import view_names
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.detectors.cover import CoVer, CoVerSettings
from openood_interneg.detectors.mcm import MCM, MCMSettings
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.reproduce.exhibits import make_exhibit
from openood_interneg.reproduce.experiment import KINDS
from openood_interneg.reproduce.experiment_files import load_experiment
from openood_interneg.reproduce.options import Options
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.vlm.factory import load_backbone

EXPERIMENT = """
title: CoVer
source: Table 0
kind: {kind}
images: 4
batch_size: 3
parts: [{{name: Average, benchmark: imagenet, sets: near}}]
methods: [{{label: CoVer, method: cover}}]
points: [{{label: all, counts: [2, 2]}}]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    write_benchmark(root / "data", seed=1, train_per_class=1, test_per_class=1, near=4, far=4)
    return root


@pytest.fixture
def taken(monkeypatch):
    """Shapes of the features that CoVer was given."""
    shapes, step = [], CoVer._step

    def watched(self, features, ids):
        shapes.append(tuple(features.shape[:-1]))
        return step(self, features, ids)

    monkeypatch.setattr(CoVer, "_step", watched)
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cover_scores_its_views_in_experiments_of_every_kind(world, tmp_path, taken, kind):
    path = tmp_path / "cover.yml"
    path.write_text(EXPERIMENT.format(kind=kind))
    options = Options(
        bench="miniature", data_root=world / "data", backbones=("miniature",), limit=3
    )
    run = Reproduction(options, Store(world / "store"), tmp_path, lambda line: None)
    (cell,) = run.run(load_experiment(path))["cells"]
    assert "sets" in cell, cell
    count = len(view_names("recommended13"))
    assert taken and all(len(shape) == 2 and shape[0] == count for shape in taken), taken


def test_cover_scores_its_views_in_exhibits(world, taken):
    benchmark = load_benchmark("miniature", world / "data", limit=3)
    evaluation = Evaluation(benchmark, load_backbone("miniature"), Store(world / "store"))
    method, settings = get_method("cover"), CoVerSettings()
    detector = method.make(settings).fit(evaluation.source.space_for(method, settings))
    shown = make_exhibit(evaluation, method, detector, settings, seed=0, batch_size=4)
    assert taken and all(len(shape) == 2 for shape in taken), taken
    (id_set, ood_sets) = evaluation.method_sets(method, settings)
    first = min(detector.step(id_set.features).score.tolist())
    name = ood_sets[0].name
    example = shown["sets"][name]["groups"]["falsely accused"][0]
    assert example["score"] == pytest.approx(first, rel=1e-4)
    # what an example is nearest to is read off the image itself, the first of its views
    plain = MCM(MCMSettings()).fit(detector.space)
    own = id_set.features
    np.testing.assert_array_equal(
        detector.text_logits(own)[0].numpy(), plain.text_logits(own[0])[0].numpy()
    )


def test_a_variant_without_patches_takes_the_image_alone():
    locoop = get_method("locoop")
    assert locoop.features_of(locoop.make_settings({"score": "glmcm"})) == "patches"
    assert locoop.features_of(locoop.make_settings({"score": "mcm"})) == "image"


def test_every_method_says_what_its_features_are_of_and_can_be_pickled():
    for method in list_methods():
        method = pickle.loads(pickle.dumps(method))
        kind = method.features_of(method.make_settings())
        assert kind_name(kind) == ("views" if isinstance(kind, Views) else kind)
        assert kind_name(kind) in ("image", "views", "patches")


def test_scores_that_are_no_probabilities_have_no_error_types(world, tmp_path):
    """Energy's scores lie beyond 1: no threshold in [0, 1] ever rejected an image."""
    path = tmp_path / "energy.yml"
    text = EXPERIMENT.format(kind="errors")
    path.write_text(text.replace("label: CoVer, method: cover", "label: Energy, method: energy"))
    options = Options(
        bench="miniature", data_root=world / "data", backbones=("miniature",), limit=3
    )
    run = Reproduction(options, Store(world / "store"), tmp_path, lambda line: None)
    result = run.run(load_experiment(path))
    assert "sets" not in result["cells"][0]
    assert "Energy's scores run from" in result["unavailable"][0]

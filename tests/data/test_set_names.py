"""What is kept and reported goes by what the images are; the names of sets tell figures apart."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from openood_interneg.cli.evaluate import parse_seeds
from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.image_lists import BenchmarkError, ImageList
from openood_interneg.data.store import Store
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.negatives.stored_inversion import pseudo_token_inversion
from openood_interneg.reproduce.exhibits import _by_id
from openood_interneg.reproduce.options import Options
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.factory import load_backbone


def drawn(folder, name, colours, label=-1) -> ImageList:
    """Plain images of equal size in bytes and equal time, named alike in every folder."""
    folder.mkdir(parents=True)
    for i, colour in enumerate(colours):
        Image.new("RGB", (32, 32), colour).save(folder / f"{i}.bmp")
        os.utime(folder / f"{i}.bmp", ns=(10**18, 10**18))
    labels = np.full(len(colours), label, dtype=np.int64)
    return ImageList(name, folder, tuple(f"{i}.bmp" for i in range(len(colours))), labels)


@pytest.fixture(scope="module")
def clip(miniature):
    return miniature


@pytest.fixture
def benchmark(tmp_path):
    test = drawn(tmp_path / "test", "shapes", ["red", "blue"], label=0)
    near = drawn(tmp_path / "near", "near", ["green", "white"])
    far = drawn(tmp_path / "far", "far", ["black", "yellow"])
    return Benchmark("shapes", ("circle", "square"), None, test, (near,), (far,))


def test_sets_of_one_name_get_their_own_features(clip, benchmark, tmp_path):
    evaluation = Evaluation(benchmark, clip, Store(tmp_path / "store"))
    test = evaluation.feature_set(benchmark.test)
    # The folder is all that differs: names, sizes and times of the files are alike.
    named_alike = replace(benchmark.near[0], name="shapes")
    ood = evaluation.feature_set(named_alike)
    assert not torch.allclose(test.features, ood.features)
    again = Evaluation(benchmark, clip, Store(None)).feature_set(benchmark.near[0])
    assert torch.equal(ood.features, again.features)


def test_a_list_with_other_labels_gets_its_own_labels(clip, benchmark):
    evaluation = Evaluation(benchmark, clip)
    evaluation.feature_set(benchmark.test)
    other = replace(benchmark.test, labels=np.array([1, 0]))
    assert evaluation.feature_set(other).labels.tolist() == [1, 0]
    assert benchmark.test.digest != other.digest


@pytest.mark.parametrize(
    "name",
    ["shapes", "SHAPES", "near", "NEAR", "nearood", "farood", "far mean", "Average", "id"],
)
def test_a_name_that_would_mix_figures_is_refused(benchmark, name):
    with pytest.raises(BenchmarkError, match=f"'{name}'.*name of its own"):
        replace(benchmark, far=(replace(benchmark.far[0], name=name),))


def test_means_are_over_the_sets_of_a_group(clip, benchmark):
    evaluation = Evaluation(benchmark, clip)
    rows = evaluation.run("mcm", _mcm())
    assert [row["dataset"] for row in rows] == ["near", "far", "nearood", "farood"]
    assert rows[2]["AUROC"] == rows[0]["AUROC"] and rows[3]["AUROC"] == rows[1]["AUROC"]


@pytest.mark.parametrize("backbones", [("a/clip.pt", "b/clip.pt"), ("RN50", "RN50")])
def test_two_backbones_of_one_label_are_not_two_seeds_of_one(backbones):
    with pytest.raises(SettingsError, match=r"would both be called '(clip|RN50)'"):
        Options(backbones=backbones)


def test_a_seed_that_stands_twice_is_no_second_run():
    with pytest.raises(SettingsError, match="twice"):
        parse_seeds("0,1,0")


def _mcm():
    return get_method("mcm").make_settings({})


def test_captions_by_name_refuse_two_images_of_one_name(clip, benchmark):
    """`0.bmp` is in every folder: the ID images' captions would be taken for the OOD images."""
    method = next(m for m in list_methods() if "captions" in m.needs)
    evaluation = Evaluation(benchmark, clip)
    settings = method.make_settings({"captions": "captions.txt"})
    for ask in (
        lambda: evaluation.check([(method, settings)]),
        lambda: evaluation.method_sets(method, settings),
    ):
        with pytest.raises(BenchmarkError, match=r"'0.bmp' is an image of 'shapes' and another"):
            ask()
    evaluation.check([(get_method("mcm"), _mcm())])


def test_an_exhibit_does_not_guess_whose_name_it_is(benchmark, tmp_path):
    near = replace(benchmark.near[0], paths=("0.bmp", "other.bmp"))
    found = {name: images for images, _, name in _by_id([benchmark.test, near]).values()}
    assert found["0.bmp"] is None, "it could be the ID image or the OOD image"
    assert found["1.bmp"] is benchmark.test and found["other.bmp"] is near


def test_models_of_one_set_of_weights_do_not_share_the_store(clip, benchmark, tmp_path):
    """Twice as many heads: the weights are the same, every feature is another."""
    other = load_backbone("miniature")
    for module in other.model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.num_heads, module.head_dim = 2 * module.num_heads, module.head_dim // 2
    other.model.visual.attnpool.num_heads *= 2
    settings = get_method("interneg").make_settings({"negatives": "intra"})

    def everything(backbone, store):
        evaluation = Evaluation(benchmark, backbone, store)
        found = evaluation.feature_set(benchmark.test)
        inverter = evaluation.inverters(pseudo_token_inversion(backbone, settings))
        rows = inverter(found.features, found.ids)
        inverter.flush()
        return found.features, evaluation.source.labels("a photo of a {}"), rows

    store = Store(tmp_path / "store")
    first, warm = everything(clip, store), everything(other, store)
    alone = everything(other, Store(None))
    for mine, theirs, true in zip(warm, first, alone, strict=True):
        assert torch.equal(mine, true) and not torch.allclose(mine, theirs)
    assert torch.equal(first[2], everything(clip, store)[2])

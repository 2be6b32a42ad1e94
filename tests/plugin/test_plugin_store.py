"""Features of OpenOOD's loaders come from the store: encoded once, by whoever comes first, and
never for an image that is not certainly the stored one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openood_standin import (
    CLASSES,
    FAR_KINDS,
    REAL_MISSING,
    draw,
    image_rng,
    needs_openood,
    write_cifar10,
)
from real_openood import evaluator_of, image_loader
from torchvision import transforms

pytestmark = [needs_openood, pytest.mark.usefixtures("cifar10_names")]

if REAL_MISSING is None:
    from openood_interneg.data.benchmark_yaml import load_benchmark
    from openood_interneg.data.store import Store, default_root
    from openood_interneg.evaluation.evaluate import Evaluation
    from openood_interneg.plugin.openood import load_openood

    load_openood()
    from openood.pipelines import test_ood_pipeline

    from openood_interneg.main import main
    from openood_interneg.plugin.baselines import run_baseline
    from openood_interneg.plugin.device import redirect_cuda
    from openood_interneg.plugin.postprocessors import InterNegPostprocessor, MCMPostprocessor
    from openood_interneg.plugin.stored_loaders import known_images, same_transform
    from openood_interneg.vlm.backbones import Backbone

IMAGES = 37 + sum(range(20, 26))  # of the test sets
READ = 20  # the ID training images of InterNeg's proxies, two a class


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("INTERNEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch):
    """How many images the image tower has seen: a list of one number."""
    count, genuine = [0], Backbone.image_features

    def image_features(self, images):
        count[0] += len(images)
        return genuine(self, images)

    monkeypatch.setattr(Backbone, "image_features", image_features)
    return count


def plain_evaluator(net, root, **options):
    """OpenOOD's own class."""
    from openood.evaluation_api import Evaluator

    given = {"batch_size": 8, "num_workers": 0, "data_root": str(root)} | options
    with redirect_cuda("cpu"):
        evaluator = Evaluator(net, "cifar10", **given)
        evaluator.eval_ood(progress=False)
    return evaluator


def ours(net, root, **options):
    evaluator = evaluator_of(net, root, **options)
    evaluator.eval_ood(progress=False)
    return evaluator


@pytest.mark.parametrize("make", [plain_evaluator, ours])
def test_the_second_run_encodes_nothing(net, root, settings, cache, encoded, make):
    first = make(net, root, postprocessor=InterNegPostprocessor(**settings))
    assert encoded == [IMAGES + READ]
    second = make(net, root, postprocessor=InterNegPostprocessor(**settings))
    assert encoded == [IMAGES + READ]
    assert second.metrics["ood"].equals(first.metrics["ood"])
    batch = next(iter(second.dataloader_dict["id"]["test"]))
    assert batch["data"].shape == (8, 3, 64, 64)  # whoever looks at the images finds them


@pytest.mark.parametrize("name", ["msp", "react", "mds"])
@pytest.mark.parametrize("make", [plain_evaluator, ours])
def test_so_do_openoods_own_methods(net, root, cache, encoded, make, name):
    from openood_interneg.plugin.register import config_root

    make(net, root, postprocessor=MCMPostprocessor())
    seen = encoded[0]
    assert seen == IMAGES
    first = make(net, root, postprocessor_name=name, **configs(make, config_root()))
    # mds takes training images, react validation images; OpenOOD's file of react has a search.
    fitted = {"msp": 0, "react": 40 if make is plain_evaluator else 20, "mds": 40}[name]
    assert encoded[0] == seen + fitted
    again = make(net, root, postprocessor_name=name, **configs(make, config_root()))
    assert encoded[0] == seen + fitted
    assert again.metrics["ood"].equals(first.metrics["ood"])
    batch = next(iter(again.dataloader_dict["id"]["test"]))
    assert batch["data"].shape == (8, 3, 64, 64)


def configs(make, ours_root):
    """Where OpenOOD's class looks for a method's file: its checkout has those of its methods."""
    import openood

    theirs = os.path.join(os.path.dirname(os.path.dirname(openood.__file__)), "configs")
    return {"config_root": theirs if make is plain_evaluator else ours_root}


@pytest.mark.slow
def test_stored_figures_are_those_of_images(net, root, settings, cache, encoded):
    kept = ours(net, root, postprocessor=InterNegPostprocessor(**settings))
    seen = encoded[0]
    made = InterNegPostprocessor(cache_dir=False, **settings)
    from_images = ours(net, root, postprocessor=made)
    assert encoded[0] == 2 * seen
    for name, (_, conf, _) in from_images.id_scores.items():
        np.testing.assert_allclose(kept.id_scores[name][1], conf, atol=1e-5)
    with_msp = {"config_root": configs(ours, None)["config_root"], "postprocessor_name": "msp"}
    stored, plain = ours(net, root, **with_msp), ours(net, root, cache_dir=False, **with_msp)
    assert encoded[0] == 2 * seen + IMAGES + 37  # without a store the accuracy encodes again
    for name, (_, conf, _) in plain.id_scores.items():
        np.testing.assert_allclose(stored.id_scores[name][1], conf, atol=1e-5)


@pytest.mark.slow
def test_eval_and_the_plugin_share_entries(net, root, settings, cache, encoded):
    benchmark = replace(load_benchmark("cifar10", root), class_names=CLASSES)
    made = InterNegPostprocessor(**settings)
    ours(net, root, postprocessor=made)
    seen = encoded[0]
    evaluation = Evaluation(benchmark, net.clip, Store(default_root()))
    evaluation.run("interneg", made.settings)
    assert evaluation.encoder.encoded == 0 and encoded[0] == seen


def test_the_plugin_finds_what_eval_has_encoded(net, root, settings, cache, encoded):
    benchmark = replace(load_benchmark("cifar10", root), class_names=CLASSES)
    made = InterNegPostprocessor(**settings)
    Evaluation(benchmark, net.clip, Store(default_root())).run("interneg", made.settings)
    seen = encoded[0]
    assert seen == IMAGES + READ
    ours(net, root, postprocessor=made)
    assert encoded[0] == seen


def test_a_file_that_changed_is_encoded_anew(net, tmp_path, cache, encoded):
    root = write_cifar10(tmp_path / "data")
    loader, made = image_loader(root, net), MCMPostprocessor()
    before = made.feature_set(net, loader, "test", progress=False).features
    seen = encoded[0]
    path = root / "images_classic" / "cifar10" / "test_cifar10" / "003.png"
    draw(FAR_KINDS["textures"][0], image_rng(99, "probe", 0)).save(path)
    after = made.feature_set(net, loader, "test", progress=False).features  # the same loader
    same = (before == after).all(dim=1)
    assert encoded[0] == 2 * seen and (before[3] - after[3]).norm() > 0.01
    assert same.sum() == len(same) - 1 and not same[3]
    path.unlink()
    with pytest.raises(Exception, match=r"1 of 37 images.*not there"):
        made.feature_set(net, loader, "test", progress=False)


class Flipped(transforms.Compose):
    """A class of one's own may do anything in its call."""


def test_other_transforms_never_meet_a_stored_row(net, root, cache, encoded):
    made = MCMPostprocessor()
    made.feature_set(net, image_loader(root, net), "test", progress=False)
    own = net.clip.preprocess.transform()
    flip = transforms.RandomHorizontalFlip(1.0)
    theirs = [
        transforms.Compose([flip, *own.transforms]),
        transforms.Compose([*own.transforms[:-1], transforms.Normalize((0.5,) * 3, (0.5,) * 3)]),
        transforms.Compose([transforms.Resize(72), *own.transforms[1:]]),
        Flipped(own.transforms),
        lambda image: own(image),
    ]
    for transform in theirs:
        loader, seen = image_loader(root, net), encoded[0]
        assert known_images(loader, net.clip) is not None
        loader.dataset.transform_image = transform
        assert not same_transform(transform, own) and known_images(loader, net.clip) is None
        features = made.feature_set(net, loader, "test", progress=False).features
        assert encoded[0] == seen + 37
        expected = net.clip.encode_image(torch.stack([loader.dataset[i]["data"] for i in range(8)]))
        torch.testing.assert_close(features[:8], expected)


def test_other_data_sets_and_loaders_stay_as_they_are(net, root):
    from openood.datasets.imglist_dataset import ImglistDataset
    from torch.utils.data import DataLoader, Subset

    class Own(ImglistDataset):
        pass

    dataset = image_loader(root, net).dataset
    assert known_images(DataLoader(dataset, 8, shuffle=True), net.clip) is not None
    assert known_images(DataLoader(Subset(dataset, [0, 1]), 8), net.clip) is None
    assert known_images(DataLoader(dataset, 8, collate_fn=list), net.clip) is None
    assert known_images(DataLoader(dataset, None), net.clip) is None
    assert known_images([{"data": torch.rand(2, 3, 64, 64)}], net.clip) is None
    dataset.__class__ = Own
    assert known_images(DataLoader(dataset, 8), net.clip) is None


def test_a_network_over_several_gpus_encodes_on_them(net, root, cache, encoded):
    made, loader = MCMPostprocessor(), image_loader(root, net)
    for times in (1, 2):
        found = made.feature_set(torch.nn.DataParallel(net), loader, "test", progress=False)
        assert encoded == [37 * times] and len(found) == 37


def test_order_labels_and_names_are_the_loaders(net, root, cache):
    from torch.utils.data import DataLoader

    loader = image_loader(root, net)
    made = MCMPostprocessor()
    shuffled = DataLoader(loader.dataset, 8, shuffle=True)
    for state in (1, 1):  # encoded at first, read then
        torch.manual_seed(state)
        found = made.feature_set(net, shuffled, "test", progress=False)
        torch.manual_seed(state)
        order = torch.cat([batch["index"] for batch in shuffled]).numpy()
        assert np.array_equal(found.labels, order % 10) and sorted(order) == list(range(37))
        expected = net.clip.encode_image(loader.dataset[order[5]]["data"][None])
        torch.testing.assert_close(found.features[5:6], expected)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["openood", "mixed"])
@pytest.mark.parametrize("method", ["mcm", "msp", "mds"])
def test_main_encodes_once(root, tmp_path, cache, encoded, monkeypatch, pipeline, method):
    own = Path(configs(plain_evaluator, None)["config_root"]) / "postprocessors"
    yaml = f"configs/postprocessors/{method}.yml" if method == "mcm" else own / f"{method}.yml"
    files = ["--config", "configs/datasets/cifar10/cifar10.yml", "configs/networks/clip_b16.yml"]
    files += ["configs/preprocessors/clip.yml"]
    options = ["--data_root", str(root), "--network.backbone", "miniature", "--num_workers", "0"]
    options += ["--dataset.class_names", str(root / "names.txt")]
    # OpenOOD's own takes the place of sys.stdout for good.
    monkeypatch.setattr(test_ood_pipeline, "setup_logger", lambda c: os.makedirs(c.output_dir))
    tables = []
    for turn in ("first", "second"):
        folder = tmp_path / turn
        folder.mkdir()
        monkeypatch.chdir(folder)
        main([*files, f"configs/pipelines/{pipeline}.yml", str(yaml), *options])
        tables.append(next(folder.glob("results/*/s0/**/ood.csv")).read_text())
        assert encoded == [IMAGES + (40 if method == "mds" else 0)]
    assert tables[0] == tables[1]


def test_without_a_usable_cache_it_runs_as_before(net, root, tmp_path, monkeypatch, encoded):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("INTERNEG_CACHE", str(blocked))
    loaders = [image_loader(root, net, name) for name in ("test_cifar10", "test_tin")]
    with pytest.warns(UserWarning, match="image features are not kept"):
        first = run_baseline("msp", net, None, None, loaders[0], {"tin": loaders[1]})
    assert encoded == [37 + 21] and blocked.read_text() == "no folder"
    second = run_baseline("msp", net, None, None, loaders[0], {"tin": loaders[1]}, cache_dir=False)
    np.testing.assert_allclose(first["tin"][1], second["tin"][1], atol=1e-6)
    assert encoded == [2 * (37 + 21)]

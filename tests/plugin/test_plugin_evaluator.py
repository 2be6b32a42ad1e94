"""The evaluator with the real OpenOOD, end to end, on real little images."""

import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from openood_standin import CLASSES, REAL_MISSING, needs_openood
from real_openood import COLUMNS, INDEX, evaluator_of, image_loader

from openood_interneg.settings import SettingsError

pytestmark = [needs_openood, pytest.mark.usefixtures("cifar10_names")]

if REAL_MISSING is None:
    from openood_interneg.data.benchmark_yaml import load_benchmark
    from openood_interneg.evaluation.evaluate import Evaluation
    from openood_interneg.evaluation.protocols import stream
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.plugin.device import redirect_cuda
    from openood_interneg.plugin.network import ClipZeroShot, as_clip
    from openood_interneg.plugin.postprocessors import InterNegPostprocessor, MCMPostprocessor
    from openood_interneg.plugin.register import register_benchmark


@pytest.fixture(scope="module")
def configs(root, settings, tmp_path_factory):
    """A user's own config_root with one method in it."""

    folder = tmp_path_factory.mktemp("configs") / "postprocessors"
    folder.mkdir()
    block = {"name": "interneg", "APS_mode": False, "postprocessor_args": settings}
    (folder / "interneg.yml").write_text(yaml.safe_dump({"postprocessor": block}))
    sweep = {"beta_list": [0.0, 1.0], "num_negatives_list": [4, 12]}
    block |= {"APS_mode": True, "postprocessor_sweep": sweep}
    aps = folder.parent / "aps" / "postprocessors"
    aps.mkdir(parents=True)
    (aps / "interneg.yml").write_text(yaml.safe_dump({"postprocessor": block}, sort_keys=False))
    return folder.parent


@pytest.fixture(scope="module")
def plain(net, root, configs):
    """OpenOOD's own, unmodified Evaluator, by name; `.cuda()` means the CPU in the block."""
    from openood.evaluation_api import Evaluator as Theirs

    with redirect_cuda("cpu"):
        evaluator = Theirs(
            net,
            "cifar10",
            data_root=str(root),
            config_root=str(configs),
            preprocessor=net.clip.preprocess.transform(),
            postprocessor_name="interneg",
            batch_size=8,
            num_workers=0,
        )
        evaluator.eval_ood(progress=False)
    return evaluator


def test_table_of_the_plain_evaluator(plain):
    table = plain.metrics["ood"]
    assert list(table.index) == INDEX and list(table.columns) == COLUMNS
    assert np.isfinite(table.to_numpy()).all() and plain.metrics["id_acc"] == table["ACC"].iloc[0]
    assert plain.postprocessor.detector.inverted > 0
    assert len(plain.postprocessor.detector.bank) > 0


def test_our_evaluator_gives_the_same_bits(plain, net, root, settings):
    evaluator = evaluator_of(
        net, root, postprocessor=InterNegPostprocessor(**settings), protocol="openood"
    )
    table = evaluator.eval_ood(progress=False)
    assert table.equals(plain.metrics["ood"])
    for group, sets in plain.scores["ood"].items():
        for name, scores in (sets or {}).items() if group != "val" else ():
            for theirs, same in zip(scores, evaluator.scores["ood"][group][name], strict=True):
                assert np.array_equal(theirs, same)


def test_our_loop_gives_the_same_bits(plain, net):
    loader = plain.dataloader_dict["ood"]["near"]["tin"]
    found = plain.postprocessor.feature_set(net, loader, "tin", progress=False)
    plain.postprocessor.detector.reset()
    _, conf = stream(plain.postprocessor.detector, found.features, found.ids, 8)
    assert np.array_equal(conf.numpy(), plain.scores["ood"]["near"]["tin"][1])
    assert plain.postprocessor.detector.bank is not None


def test_scores_files_of_openood_are_reused(plain, net, root, settings):
    """OpenOOD's scripts put stored scores back and pickle postprocessors."""
    stored = pickle.loads(pickle.dumps(plain.postprocessor))
    evaluator = evaluator_of(net, root, postprocessor=stored, protocol="openood")
    evaluator.scores = pickle.loads(pickle.dumps(plain.scores))
    evaluator.postprocessor.inference = None  # not needed
    assert evaluator.eval_ood(progress=False).equals(plain.metrics["ood"])
    again = evaluator_of(net, root, postprocessor=pickle.loads(pickle.dumps(plain.postprocessor)))
    assert again.postprocessor.settings == plain.postprocessor.settings


@pytest.mark.slow
def test_mixed_is_the_table_of_interneg_eval(net, root, settings):
    made = InterNegPostprocessor(**settings)
    table = evaluator_of(net, root, postprocessor=made, batch_size=16, seed=2).eval_ood(
        progress=False
    )
    assert list(table.index) == INDEX and list(table.columns) == COLUMNS
    benchmark = replace(load_benchmark("cifar10", root), class_names=CLASSES)
    evaluation = Evaluation(benchmark, net.clip, encode_batch=16)
    rows = evaluation.run(
        "interneg", made.settings, protocol="mixed", seed=2, batch_size=16
    )  # the seed is that of the inversions, too
    made = InterNegPostprocessor(**(settings | {"seed": 2}))
    evaluator = evaluator_of(net, root, postprocessor=made, batch_size=16, seed=2)
    table = evaluator.eval_ood(progress=False)
    for row in rows:
        for column in COLUMNS:
            assert table.loc[row["dataset"], column] == pytest.approx(row[column], abs=1e-3)
    assert len(evaluator.id_scores["tin"][1]) == 37
    assert evaluator.scores["ood"]["near"]["tin"][1].shape == (21,)


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_full_spectrum(net, root, settings, protocol):
    made = InterNegPostprocessor(**settings)
    evaluator = evaluator_of(net, root, postprocessor=made, protocol=protocol)
    table = evaluator.eval_ood(fsood=True, progress=False)
    assert list(table.index) == INDEX
    fresh = evaluator_of(net, root, postprocessor=made, protocol=protocol)
    assert table["ACC"].iloc[0] == pytest.approx(fresh.eval_acc("csid"))


@pytest.mark.slow
def test_search_by_name_and_by_instance(net, root, configs, monkeypatch):
    mined = []
    genuine = TextSpaceBuilder._mine
    monkeypatch.setattr(
        TextSpaceBuilder, "_mine", lambda self, s: mined.append(s) or genuine(self, s)
    )
    by_name = evaluator_of(net, root, config_root=configs / "aps", postprocessor_name="interneg")
    assert by_name.postprocessor.hyperparam_search_done
    chosen = by_name.postprocessor.get_hyperparam()
    assert chosen[0] in (0.0, 1.0) and chosen[1] in (4, 12)
    # beta alone never mines: once for M = 12 at setup, once for M = 4, and both are kept
    assert sorted(s.num_negatives for s in mined) == [4, 12]
    made = pickle.loads(pickle.dumps(by_name.postprocessor))
    made.hyperparam_search_done = False
    by_instance = evaluator_of(net, root, postprocessor=made)
    assert by_instance.postprocessor.get_hyperparam() == chosen


def test_search_without_a_sweep_is_refused(net, root, settings):
    made = InterNegPostprocessor(**settings)
    made.APS_mode = True
    with pytest.raises(SettingsError, match="postprocessor_sweep is empty"):
        evaluator_of(net, root, postprocessor=made)
    with pytest.raises(SettingsError, match="protocol"):
        evaluator_of(net, root, postprocessor=MCMPostprocessor(), protocol="random")


def test_train_mode_is_left_before_anything_is_encoded(root, settings):
    net = ClipZeroShot.load("miniature", CLASSES)
    net.model.train()
    evaluator_of(net, root, postprocessor=InterNegPostprocessor(**settings))
    assert not net.model.training


def test_openoods_own_clip_network(net, root, settings, monkeypatch):
    """`CLIPZeroshot` of OpenOOD, built by its own code over a stand-in of the `clip` package."""
    fake = types.ModuleType("clip")
    fake.available_models = lambda: ["mini"]
    fake.load = lambda name, device: (net.clip.model, net.clip.preprocess.transform())
    fake.tokenize = net.clip.tokenizer
    monkeypatch.setitem(sys.modules, "clip", fake)
    monkeypatch.delitem(sys.modules, "openood.networks.clip", raising=False)
    from openood.networks.clip import CLIPZeroshot

    with redirect_cuda("cpu"):
        theirs = CLIPZeroshot(CLASSES, ["The nice {}."], backbone="mini")
    images = torch.randn(2, 3, 64, 64)
    adapted = as_clip(theirs, CLASSES)
    cosine = theirs(images)
    torch.testing.assert_close(adapted(images), cosine * adapted.logit_scale)
    torch.testing.assert_close(adapted(images), net(images))
    made = InterNegPostprocessor(class_names=CLASSES, **settings)
    made.setup(theirs, {"train": image_loader(root, net)}, {})
    assert np.isfinite(made.inference(theirs, image_loader(root, net), progress=False)[1]).all()


@pytest.mark.slow
def test_realbench_mixed_is_the_table_of_interneg_eval(realbench, root, tmp_path, settings):
    """Every tenth image of realbench10, through the real evaluator and through our loop."""
    lists = tmp_path / "benchmark_imglist" / "realbench10"
    lists.mkdir(parents=True)
    (tmp_path / "images_classic").symlink_to(realbench / "images_classic")
    for path in (realbench / "benchmark_imglist" / "realbench10").iterdir():
        lines = path.read_text().splitlines(keepends=True)
        (lists / path.name).write_text("".join(lines[:: 1 if "train" in path.name else 10]))
    real = ClipZeroShot.load(realbench / "model" / "clip.safetensors", "realbench10")
    made = InterNegPostprocessor(**(settings | {"beta": 0.9}))
    evaluator = evaluator_of(
        real, tmp_path, id_name="realbench10", postprocessor=made, batch_size=128
    )
    table = evaluator.eval_ood(progress=False)
    assert evaluator.postprocessor.detector.inverted > 0
    evaluation = Evaluation(load_benchmark("realbench10", tmp_path), real.clip)
    rows = evaluation.run("interneg", made.settings, protocol="mixed", seed=0, batch_size=128)
    assert {row["dataset"] for row in rows} == set(table.index)
    for row in rows:
        for column in COLUMNS:
            assert table.loc[row["dataset"], column] == pytest.approx(row[column], abs=5e-3)


@pytest.mark.slow
def test_openood_protocol_says_what_it_is(net, root, settings, capsys):
    made = InterNegPostprocessor(**settings)
    evaluator_of(net, root, postprocessor=made, protocol="openood").eval_ood(progress=False)
    assert "not comparable with the paper's" in capsys.readouterr().out
    evaluator_of(net, root, postprocessor=MCMPostprocessor(), protocol="openood").eval_ood(
        progress=False
    )
    assert "not comparable" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_own_benchmark_without_near_sets(net, far_only, settings, protocol):
    name = register_benchmark(far_only)
    made = InterNegPostprocessor(**settings)
    evaluator = evaluator_of(net, None, id_name=name, postprocessor=made, protocol=protocol)
    table = evaluator.eval_ood(progress=False)
    assert list(table.index) == ["mnist", "farood"] and evaluator.eval_acc() == table["ACC"].iloc[0]

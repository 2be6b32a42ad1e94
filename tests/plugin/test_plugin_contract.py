"""The contract with the real OpenOOD: both entry points, end to end, on real little images."""

import os
import pickle
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openood_standin import CLASSES, REAL_MISSING, WORDS, needs_openood, write_cifar10
from torch.utils.data import DataLoader

pytestmark = needs_openood

if REAL_MISSING is None:
    from openood_interneg.data.benchmark import load_benchmark
    from openood_interneg.evaluation.evaluate import Evaluation
    from openood_interneg.evaluation.protocols import FeatureSet, stream
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.plugin import network
    from openood_interneg.plugin.baseline_table import BASELINES, BaselineError
    from openood_interneg.plugin.baselines import run_baseline
    from openood_interneg.plugin.device import redirect_cuda
    from openood_interneg.plugin.evaluator import Evaluator
    from openood_interneg.plugin.network import ClipZeroShot, as_clip, name_class_names
    from openood_interneg.plugin.postprocessors import InterNegPostprocessor, MCMPostprocessor
    from openood_interneg.plugin.register import config_root, register, register_benchmark
    from openood_interneg.settings import SettingsError

QUICK = {"templates": "photo", "steps": 2, "num_negatives": 12, "images_per_class": 2, "beta": 1.0}
COLUMNS = ["FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC"]
INDEX = ["cifar100", "tin", "nearood", "mnist", "svhn", "texture", "places365", "farood"]
PACKAGED = [b.name for b in BASELINES.values() if b.package] if REAL_MISSING is None else []
RUN_ANYWHERE = [b.name for b in BASELINES.values() if b.verdict != "refused" and not b.package] if (
    REAL_MISSING is None
) else []  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_cifar10(tmp_path_factory.mktemp("data"))
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    saved = os.environ.get("INTERNEG_CACHE")
    os.environ["INTERNEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    register()
    name_class_names("cifar10", CLASSES)  # drawn objects stand where CIFAR-10's classes do
    yield
    network._named.pop("cifar10")
    os.environ.pop("INTERNEG_CACHE")
    if saved is not None:
        os.environ["INTERNEG_CACHE"] = saved


@pytest.fixture(scope="module")
def net():
    return ClipZeroShot.load("miniature", CLASSES)


@pytest.fixture(scope="module")
def settings(root):
    return QUICK | {"corpus": str(root / "words.txt")}


@pytest.fixture(scope="module")
def configs(root, settings, tmp_path_factory):
    """A user's own config_root with one method in it."""
    import yaml

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


def ours(net, root, **options):
    options = {"batch_size": 8, "num_workers": 0, "data_root": root and str(root)} | options
    return Evaluator(net, options.pop("id_name", "cifar10"), **options)


def test_table_of_the_plain_evaluator(plain):
    table = plain.metrics["ood"]
    assert list(table.index) == INDEX and list(table.columns) == COLUMNS
    assert np.isfinite(table.to_numpy()).all() and plain.metrics["id_acc"] == table["ACC"].iloc[0]
    assert plain.postprocessor.detector.inverted > 0
    assert len(plain.postprocessor.detector.bank) > 0


def test_our_evaluator_gives_the_same_bits(plain, net, root, settings):
    evaluator = ours(net, root, postprocessor=InterNegPostprocessor(**settings), protocol="openood")
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
    evaluator = ours(net, root, postprocessor=stored, protocol="openood")
    evaluator.scores = pickle.loads(pickle.dumps(plain.scores))
    evaluator.postprocessor.inference = None  # not needed
    assert evaluator.eval_ood(progress=False).equals(plain.metrics["ood"])
    again = ours(net, root, postprocessor=pickle.loads(pickle.dumps(plain.postprocessor)))
    assert again.postprocessor.settings == plain.postprocessor.settings


def test_mixed_is_the_table_of_interneg_eval(net, root, settings):
    made = InterNegPostprocessor(**settings)
    table = ours(net, root, postprocessor=made, batch_size=16, seed=2).eval_ood(progress=False)
    assert list(table.index) == INDEX and list(table.columns) == COLUMNS
    benchmark = replace(load_benchmark("cifar10", root), class_names=CLASSES)
    evaluation = Evaluation(benchmark, net.clip, encode_batch=16)
    rows = evaluation.run(
        "interneg", made.settings, protocol="mixed", seed=2, batch_size=16
    )  # the seed is that of the inversions, too
    made = InterNegPostprocessor(**(settings | {"seed": 2}))
    evaluator = ours(net, root, postprocessor=made, batch_size=16, seed=2)
    table = evaluator.eval_ood(progress=False)
    for row in rows:
        for column in COLUMNS:
            assert table.loc[row["dataset"], column] == pytest.approx(row[column], abs=1e-3)
    assert len(evaluator.id_scores["tin"][1]) == 37
    assert evaluator.scores["ood"]["near"]["tin"][1].shape == (21,)


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_full_spectrum(net, root, settings, protocol):
    made = InterNegPostprocessor(**settings)
    evaluator = ours(net, root, postprocessor=made, protocol=protocol)
    table = evaluator.eval_ood(fsood=True, progress=False)
    assert list(table.index) == INDEX
    fresh = ours(net, root, postprocessor=made, protocol=protocol)
    assert table["ACC"].iloc[0] == pytest.approx(fresh.eval_acc("csid"))


def test_search_by_name_and_by_instance(net, root, configs, monkeypatch):
    mined = []
    genuine = TextSpaceBuilder._mine
    monkeypatch.setattr(
        TextSpaceBuilder, "_mine", lambda self, s: mined.append(s) or genuine(self, s)
    )
    by_name = ours(net, root, config_root=configs / "aps", postprocessor_name="interneg")
    assert by_name.postprocessor.hyperparam_search_done
    chosen = by_name.postprocessor.get_hyperparam()
    assert chosen[0] in (0.0, 1.0) and chosen[1] in (4, 12)
    # beta alone never mines: once for M = 12 at setup, once for M = 4, and both are kept
    assert sorted(s.num_negatives for s in mined) == [4, 12]
    made = pickle.loads(pickle.dumps(by_name.postprocessor))
    made.hyperparam_search_done = False
    by_instance = ours(net, root, postprocessor=made)
    assert by_instance.postprocessor.get_hyperparam() == chosen


def test_search_without_a_sweep_is_refused(net, root, settings):
    made = InterNegPostprocessor(**settings)
    made.APS_mode = True
    with pytest.raises(SettingsError, match="postprocessor_sweep is empty"):
        ours(net, root, postprocessor=made)
    with pytest.raises(SettingsError, match="protocol"):
        ours(net, root, postprocessor=MCMPostprocessor(), protocol="random")


def test_train_mode_is_left_before_anything_is_encoded(root, settings):
    net = ClipZeroShot.load("miniature", CLASSES)
    net.model.train()
    ours(net, root, postprocessor=InterNegPostprocessor(**settings))
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
    made.setup(theirs, {"train": _loader(root, net)}, {})
    assert np.isfinite(made.inference(theirs, _loader(root, net), progress=False)[1]).all()


def _loader(root, net, name="test_cifar10"):
    from openood.datasets.imglist_dataset import ImglistDataset

    transform = net.clip.preprocess.transform()
    dataset = ImglistDataset(
        name, str(root / f"benchmark_imglist/cifar10/{name}.txt"), str(root / "images_classic"),
        10, transform, transform,
    )  # fmt: skip
    return DataLoader(dataset, batch_size=8)


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
    evaluator = ours(real, tmp_path, id_name="realbench10", postprocessor=made, batch_size=128)
    table = evaluator.eval_ood(progress=False)
    assert evaluator.postprocessor.detector.inverted > 0
    evaluation = Evaluation(load_benchmark("realbench10", tmp_path), real.clip)
    rows = evaluation.run("interneg", made.settings, protocol="mixed", seed=0, batch_size=128)
    assert {row["dataset"] for row in rows} == set(table.index)
    for row in rows:
        for column in COLUMNS:
            assert table.loc[row["dataset"], column] == pytest.approx(row[column], abs=5e-3)


# ---- OpenOOD's own methods ---------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(net, root):
    made = MCMPostprocessor()
    names = ("train_cifar10", "val_cifar10", "test_cifar10", "test_tin")
    return {n: made.feature_set(net, _loader(root, net, n), n, progress=False) for n in names}


def test_at_least_fifteen_run_anywhere():
    assert len(RUN_ANYWHERE) >= 15
    from openood.evaluation_api.postprocessor import postprocessors

    ours_too = {name for name, cls in postprocessors.items() if hasattr(cls, "method")}
    assert set(BASELINES) - {"rts"} <= set(postprocessors)
    assert set(postprocessors) - ours_too <= set(BASELINES)  # a verdict for every one of theirs


@pytest.mark.parametrize("name", RUN_ANYWHERE)
def test_builtin_runs(net, root, sets, name):
    row = BASELINES[name]
    train, val, test, tin = sets.values()
    if row.pixels:
        with pytest.raises(BaselineError, match="loaders of images"):
            run_baseline(name, net, train, val, test, {"tin": tin})
        test, tin = (_loader(root, net, n) for n in ("test_cifar10", "test_tin"))
    try:
        out = run_baseline(name, net, train, val, test, {"tin": tin})
    except BaselineError as error:  # a class without a correct training image
        assert name == "she" and "correctly predicted" in str(error)
        return
    pred, conf, label = out["id"]
    assert pred.shape == conf.shape == label.shape == (37,) and set(out["tin"][2]) == {-1}
    assert np.isfinite(conf).all() and np.isfinite(out["tin"][1]).all() and conf.std() > 0
    assert (label == np.arange(37) % 10).all() and pred.min() >= 0


@pytest.mark.parametrize(
    "name", [b.name for b in BASELINES.values() if b.package] if RUN_ANYWHERE else []
)
def test_builtin_with_an_optional_package(net, root, sets, name):
    train, val, test, tin = sets.values()
    if BASELINES[name].pixels:
        val, test, tin = (
            _loader(root, net, n) for n in ("val_cifar10", "test_cifar10", "test_tin")
        )
    try:
        __import__(BASELINES[name].package)
    except ImportError:
        with pytest.raises(BaselineError, match="pip install"):
            run_baseline(name, net, train, val, test, {"tin": tin})
        return
    assert np.isfinite(run_baseline(name, net, train, val, test, {"tin": tin})["id"][1]).all()


@pytest.mark.parametrize("name", ["dropout", "gram", "ssd", "opengan"])
def test_builtin_is_refused_with_its_reason(net, root, sets, name):
    train, val, test, tin = sets.values()
    reason = BASELINES[name].note[:20]
    with pytest.raises(BaselineError, match=reason):
        run_baseline(name, net, train, val, test, {"tin": tin})
    with pytest.raises(BaselineError, match=reason):
        ours(net, root, postprocessor_name=name)
    with pytest.raises(BaselineError, match="no postprocessor"):
        run_baseline("nonsense", net, train, val, test, {})


def test_missing_package_is_a_reason_in_the_evaluator(net, root):
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(BaselineError, match="pip install faiss-cpu"):
            ours(net, root, postprocessor_name="knn").eval_ood(progress=False)
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        with pytest.raises(BaselineError, match="pip install statsmodels"):
            ours(net, root, postprocessor_name="adascale_a")


def test_openood_protocol_says_what_it_is(net, root, settings, capsys):
    made = InterNegPostprocessor(**settings)
    ours(net, root, postprocessor=made, protocol="openood").eval_ood(progress=False)
    assert "not comparable with the paper's" in capsys.readouterr().out
    ours(net, root, postprocessor=MCMPostprocessor(), protocol="openood").eval_ood(progress=False)
    assert "not comparable" not in capsys.readouterr().out


def test_builtins_that_cannot_be_fitted(net, sets):
    _, val, test, tin = sets.values()
    with pytest.raises(BaselineError, match="ID train images"):
        run_baseline("mds", net, None, val, test, {"tin": tin})
    one_class = FeatureSet("one", val.features, val.ids, np.zeros(20, int))
    with pytest.raises(BaselineError, match="NaN or infinity"):
        run_baseline("mds", net, one_class, val, test, {"tin": tin})
    twins = ClipZeroShot(net.clip, (*CLASSES[:9], CLASSES[0]))
    with pytest.raises(BaselineError, match="same text"):
        run_baseline("fdbd", twins, val, val, test, {"tin": tin})


@pytest.mark.parametrize("name", ["msp", "vim", "react", "odin", "klm"])
def test_builtin_by_name_gives_the_same_scores(net, root, sets, name):
    evaluator = ours(net, root, postprocessor_name=name, config_root=config_root())
    table = evaluator.eval_ood(progress=False)
    assert list(table.index) == INDEX and np.isfinite(table.to_numpy()).all()
    train, val, test, tin = sets.values()
    if BASELINES[name].pixels:
        test, tin = (_loader(root, net, n) for n in ("test_cifar10", "test_tin"))
    # vim is fitted to the whole training set in both
    out = run_baseline(name, net, train, val, test, {"tin": tin}, batch_size=8)
    np.testing.assert_allclose(
        evaluator.scores["ood"]["near"]["tin"][1], out["tin"][1], rtol=1e-3, atol=1e-4
    )
    in_order = ours(net, root, postprocessor_name=name, protocol="openood")
    np.testing.assert_allclose(in_order.eval_ood(progress=False), table, atol=1e-6)


def test_pixels_are_untouched_by_what_methods_write(net, sets):
    before = sets["test_tin"].features.clone()
    for name in ("ash", "scale", "relation"):
        run_baseline(name, net, *list(sets.values())[:3], {"tin": sets["test_tin"]})
    assert torch.equal(sets["test_tin"].features, before)


# ---- benchmarks and main.py --------------------------------------------------------------


@pytest.fixture(scope="module")
def far_only(root):
    lists = "benchmark_imglist/cifar10"
    path = root / "far_only.yml"
    path.write_text(f"""
dataset:
  name: far_only
  class_names: names.txt
  train: {{data_dir: images_classic, imglist_pth: {lists}/train_cifar10.txt}}
  test: {{data_dir: ./data/images_classic, imglist_pth: ./data/{lists}/test_cifar10.txt}}
ood_dataset:
  farood:
    datasets: [mnist]
    mnist: {{data_dir: images_classic, imglist_pth: {lists}/test_mnist.txt}}
""")
    return path


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_own_benchmark_without_near_sets(net, far_only, settings, protocol):
    name = register_benchmark(far_only)
    made = InterNegPostprocessor(**settings)
    evaluator = ours(net, None, id_name=name, postprocessor=made, protocol=protocol)
    table = evaluator.eval_ood(progress=False)
    assert list(table.index) == ["mnist", "farood"] and evaluator.eval_acc() == table["ACC"].iloc[0]


def run_main(folder, *arguments):
    import openood

    where = os.path.dirname(os.path.dirname(openood.__file__))
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([here, where, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "openood_interneg.main", *map(str, arguments)],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (table,) = folder.glob("results/*/s0/**/ood.csv")
    return {row.split(",")[0]: row.split(",")[1:] for row in table.read_text().splitlines()}


CONFIGS = ["configs/networks/clip_b16.yml", "configs/preprocessors/clip.yml"]
SMALL = ["--network.backbone", "miniature", "--num_workers", "0"]


def test_main_mixed(tmp_path, net, root, settings):
    arguments = [f"--postprocessor.postprocessor_args.{k}={v}" for k, v in settings.items()]
    rows = run_main(
        tmp_path, "--config", "configs/datasets/cifar10/cifar10.yml", *CONFIGS,
        "configs/pipelines/mixed.yml", "configs/postprocessors/interneg.yml",
        "--data_root", root, *SMALL, "--dataset.class_names", root / "names.txt",
        "--evaluator.batch_size", "16", *arguments,
    )  # fmt: skip
    made = InterNegPostprocessor(**settings)
    table = ours(net, root, postprocessor=made, batch_size=16).eval_ood(progress=False)
    assert list(rows) == ["dataset", *INDEX]
    for name in INDEX:
        for column, value in zip(COLUMNS, rows[name], strict=True):
            assert float(value) == pytest.approx(table.loc[name, column], abs=0.011)


def test_main_with_openoods_own_protocol_search_and_method(tmp_path, root, far_only, settings):
    """OpenOOD's `ood` evaluator and APS pipeline with our method; a short YAML with mixed."""
    (tmp_path / "aps").mkdir()
    rows = run_main(
        tmp_path / "aps", "--config", "configs/datasets/cifar10/cifar10.yml", *CONFIGS,
        "configs/pipelines/openood.yml", "configs/postprocessors/mcm.yml",
        "--data_root", root, *SMALL, "--postprocessor.APS_mode", "True",
        "--dataset.class_names", root / "names.txt",
    )  # fmt: skip
    assert list(rows) == ["dataset", *INDEX]
    (tmp_path / "short").mkdir()
    rows = run_main(
        tmp_path / "short", "--config", far_only, *CONFIGS, "configs/pipelines/mixed.yml",
        "configs/postprocessors/mcm.yml", "--data_root", root, *SMALL,
    )  # fmt: skip
    assert list(rows) == ["dataset", "mnist", "farood"]

"""What our Evaluator and main.py look for before any work, with the real OpenOOD."""

import os
import warnings

import pytest
import yaml
from openood_standin import CLASSES, REAL_MISSING, needs_openood, write_cifar10
from torch import nn

from openood_interneg.data.benchmark import BenchmarkError
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.preprocess import CLIP_MEAN

pytestmark = needs_openood

if REAL_MISSING is None:
    from openood_interneg.main import main
    from openood_interneg.plugin import network
    from openood_interneg.plugin.evaluator import Evaluator
    from openood_interneg.plugin.main_config import packaged, tell_backbones_apart
    from openood_interneg.plugin.main_evaluator import MixedOODEvaluator
    from openood_interneg.plugin.network import ClipZeroShot, name_class_names
    from openood_interneg.plugin.postprocessors import MCMPostprocessor
    from openood_interneg.plugin.register import register, register_benchmark


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_cifar10(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def names(tmp_path_factory):
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


def make(net, root, id_name="cifar10", **options):
    options = {"num_workers": 0, "batch_size": 16, "data_root": root} | options
    if "postprocessor_name" not in options:
        options.setdefault("postprocessor", MCMPostprocessor())
    return Evaluator(net, id_name, **options)


def small(root, name, **changed):
    """A YAML of one's own in the data root."""
    lists = "benchmark_imglist/cifar10"
    block = {"data_dir": "images_classic", "imglist_pth": f"{lists}/test_cifar10.txt"}
    ood = {"data_dir": "images_classic", "imglist_pth": f"{lists}/test_mnist.txt"}
    config = {
        "dataset": {"name": name, "class_names": list(CLASSES), "test": block},
        "ood_dataset": {"farood": {"datasets": ["weeds"], "weeds": ood}},
    }
    config["dataset"] |= changed
    path = root / f"{name}.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_missing_lists_are_named_and_nothing_is_made_or_downloaded(net, tmp_path):
    with pytest.raises(
        BenchmarkError, match=r"lacks the image lists .*train_cifar10\.txt"
    ) as error:
        make(net, tmp_path / "data")
    assert "gdown" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, method", [("test_mnist", "mcm"), ("train_cifar10", "mds")])
def test_a_single_missing_image_is_named_before_work(net, root, name, method, monkeypatch):
    (image,) = root.glob(f"images_classic/*/{name}/007.png")
    content = image.read_bytes()
    image.unlink()
    monkeypatch.setattr(type(net.clip), "encode_image", None)
    try:
        with pytest.raises(BenchmarkError, match=r"1 of \d+ images[\s\S]*007\.png"):
            make(net, root, postprocessor_name=method)
    finally:
        image.write_bytes(content)


def test_mistyped_names_have_a_suggestion_and_no_download(net, root, tmp_path):
    with pytest.raises(SettingsError, match="no postprocessor 'intreneg'; did you mean 'interneg'"):
        make(net, root, postprocessor_name="intreneg", config_root=tmp_path)
    with pytest.raises(BenchmarkError, match="no benchmark 'cifar1'; did you mean 'cifar10'"):
        make(net, root, id_name="cifar1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_the_full_spectrum_without_shifted_sets_is_an_error(net, root, protocol):
    name = register_benchmark(small(root, "plain"))
    evaluator = make(net, None, id_name=name, protocol=protocol)
    with pytest.raises(BenchmarkError, match=r"'plain' has none; .*ood_dataset\.csid"):
        evaluator.eval_ood(fsood=True, progress=False)


def test_the_given_data_root_counts(net, root, tmp_path):
    (tmp_path / "benchmark_imglist").symlink_to(root / "benchmark_imglist")
    (tmp_path / "images_classic").symlink_to(root / "images_classic")
    name = register_benchmark(small(root, "movable"))
    evaluator = make(net, tmp_path, id_name=name)
    assert evaluator.dataloader_dict["id"]["test"].dataset.data_dir.startswith(str(tmp_path))
    evaluator = make(net, None, id_name=name)
    assert evaluator.dataloader_dict["id"]["test"].dataset.data_dir.startswith(str(root))
    with pytest.raises(BenchmarkError, match="lacks the image lists .*nowhere"):
        make(net, tmp_path / "nowhere", id_name=name)


def test_another_yaml_of_the_same_name_is_refused(root, tmp_path):
    path = small(root, "twin")
    assert register_benchmark(path) == register_benchmark(path) == "twin"
    other = small(tmp_path, "twin")  # the same words, another folder of images
    with pytest.raises(SettingsError, match="'twin' is registered already, from"):
        register_benchmark(other)
    assert register_benchmark(other, replace=True) == "twin"


def test_the_yaml_is_checked_as_for_eval(root, tmp_path):
    with pytest.raises(BenchmarkError, match="num_classes is 3, but there are 10"):
        register_benchmark(small(root, "three", num_classes=3))
    path = small(root, "alike")
    path.write_text(path.read_text().replace("weeds", "alike"))
    with pytest.raises(BenchmarkError, match="'alike' has the name of the ID set"):
        register_benchmark(path)
    (tmp_path / "broken.yml").write_text("dataset: [\n")
    with pytest.raises(BenchmarkError, match="not valid YAML"):
        register_benchmark(tmp_path / "broken.yml")
    os.mkfifo(tmp_path / "pipe.yml")
    with pytest.raises(BenchmarkError, match=r"pipe\.yml"):
        register_benchmark(tmp_path / "pipe.yml")


def test_labels_are_checked_as_for_eval(net, root):
    path = small(root, "shifted")
    lists = root / "benchmark_imglist" / "cifar10"
    text = path.read_text().replace("test_mnist", "test_labelled")
    path.write_text(text)
    labelled = (lists / "test_mnist.txt").read_text().replace(" -1", " 3")
    (lists / "test_labelled.txt").write_text(labelled)
    with pytest.raises(BenchmarkError, match="'weeds' has labels other than -1"):
        make(net, None, id_name=register_benchmark(path))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: "\ufeff" + text, "byte order mark"),
        (lambda text: text + "\n", "line 38: OpenOOD reads one name without spaces"),
    ],
)
def test_lists_that_openood_cannot_read_are_named_before_work(net, root, tmp_path, change, said):
    name = f"unreadable{len(said)}"
    path = small(root, name)
    mine = tmp_path / "mine.txt"
    text = (root / "benchmark_imglist/cifar10/test_cifar10.txt").read_text()
    mine.write_text(change(text), encoding="utf-8")
    path.write_text(
        path.read_text().replace("benchmark_imglist/cifar10/test_cifar10.txt", str(mine))
    )
    with pytest.raises(BenchmarkError, match=said):
        make(net, None, id_name=register_benchmark(path))


def test_openoods_evaluator_takes_the_networks_own_preprocessing(net, root):
    from openood.evaluation_api import Evaluator as Theirs

    from openood_interneg.plugin import config_root, redirect_cuda

    with redirect_cuda("cpu"), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        evaluator = Theirs(
            net, "cifar10", str(root), config_root(), postprocessor_name="mcm", num_workers=0
        )  # fmt: skip
    image = next(iter(evaluator.dataloader_dict["id"]["test"]))["data"]
    assert image.shape[1:] == (3, 64, 64)
    assert evaluator.preprocessor.transforms[-1].mean == pytest.approx(CLIP_MEAN)


def test_a_network_that_is_no_clip_runs_openoods_methods(root):
    class Plain(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3)).repeat(1, 4)[:, :10]

    evaluator = make(Plain(), root, postprocessor_name="msp")
    table = evaluator.eval_ood(progress=False)
    assert list(table.columns)[:2] == ["FPR@95", "AUROC"] and len(table) == 8


@pytest.mark.parametrize("option", [{"seed": 2**70}, {"seed": -1}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(net, root, option):
    (name,) = option
    with pytest.raises(SettingsError, match=f"{name} is .*takes a whole number from"):
        make(net, root, **option)


def test_a_search_shows_the_names_of_settings(net, root, capsys):
    block = {"APS_mode": True, "postprocessor_sweep": {"tau_list": [0.5, 1.0]}}
    make(net, root, postprocessor=MCMPostprocessor({"postprocessor": block}))
    said = capsys.readouterr().out
    assert "Hyperparam: tau=0.5, auroc" in said and "Final hyperparam: tau=" in said


def test_mains_search_shows_them_too():
    block = {"APS_mode": True, "postprocessor_sweep": {"tau_list": [0.5, 1.0]}}
    made = object.__new__(MixedOODEvaluator)
    made.searched = MCMPostprocessor({"postprocessor": block})
    assert str(made.recursive_generator([[0.5, 1.0]], 1)) == "[tau=0.5, tau=1.0]"


# ---- main.py -----------------------------------------------------------------------------

PARTS = "networks/clip_b16", "preprocessors/clip", "pipelines/mixed", "postprocessors/mcm"
CONFIGS = ["configs/datasets/cifar10/cifar10.yml", *(f"configs/{part}.yml" for part in PARTS)]


def refusal(capsys, *options, configs=CONFIGS):
    with pytest.raises(SystemExit) as stop:
        main(["--config", *map(str, configs), *map(str, options)])
    assert stop.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_main_says_what_is_mistyped(capsys, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = ["--data_root", root]
    said = refusal(capsys, *here, "--postprocessor.name", "mcmm")
    assert "no postprocessor 'mcmm'; did you mean 'mcm'?" in said
    said = refusal(capsys, *here, "--postprocesor.APS_mode", "True")
    assert "did you mean --postprocessor.APS_mode?" in said
    assert "has no value" in refusal(capsys, *here, "--num_gpus")
    assert "not of the kind" in refusal(capsys, *here, "--num_gpus", "many")
    assert "nothere.yml" in refusal(capsys, *here, configs=[*CONFIGS, "nothere.yml"])
    said = refusal(capsys, *here, "--network.class_names", "cifar100")
    assert "the network has 100 classes (apple, aquarium fish" in said
    said = refusal(capsys, *here, "--evaluator.ood_scheme", "fsood")
    assert "has no ood_dataset.csid" in said
    assert not list(tmp_path.iterdir())


def test_main_looks_where_eval_looks(capsys, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys)
    assert f"no image list at {tmp_path / 'data' / 'benchmark_imglist'}" in said
    own = [small(root, "ours"), *CONFIGS[1:]]
    said = refusal(capsys, "--data_root", "elsewhere", configs=own)
    assert f"no image list at {tmp_path / 'elsewhere' / 'benchmark_imglist'}" in said
    said = refusal(capsys, "--postprocessor.APS_mode", "True", configs=own)
    assert "no dataset.val and no ood_dataset.val" in said
    # Everything is found beside the YAML: only the name is wrong.
    assert "no network 'clipp'" in refusal(capsys, "--network.name", "clipp", configs=own)


def test_main_keeps_two_backbones_apart(capsys, root, tmp_path, monkeypatch):
    from openood.utils import Config

    monkeypatch.chdir(tmp_path)
    words = []
    for backbone in ("ViT-B/16", "ViT-L/14", "/models/a/clip.pt", "/models/b/clip.pt"):
        config = Config(str(packaged("configs/pipelines/mixed.yml")))
        config.network = Config({"backbone": backbone, "pretrained_tag": "none"})
        tell_backbones_apart(config)
        words.append(config.exp_name.split("_")[2])
    assert len(set(words)) == 4 and not any("/" in word for word in words)
    kept = tmp_path / "results" / "shared"
    kept.mkdir(parents=True)
    (kept / "config.yml").write_text("network:\n  backbone: ViT-L/14\n")
    said = refusal(capsys, "--data_root", root, "--exp_name", "shared")
    assert "holds results of network.backbone ViT-L/14, and this run has ViT-B/16" in said

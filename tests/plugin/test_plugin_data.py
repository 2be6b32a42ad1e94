"""What our Evaluator looks for before any work, with the real OpenOOD."""

import os
import warnings

import pytest
from openood_standin import REAL_MISSING, needs_openood
from real_openood import own_yaml
from torch import nn

from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.preprocess import CLIP_MEAN

pytestmark = [needs_openood, pytest.mark.usefixtures("cifar10_names")]

if REAL_MISSING is None:
    from openood_interneg.plugin.evaluator import Evaluator
    from openood_interneg.plugin.postprocessors import MCMPostprocessor
    from openood_interneg.plugin.register import register_benchmark


def make(net, root, id_name="cifar10", **options):
    options = {"num_workers": 0, "batch_size": 16, "data_root": root} | options
    if "postprocessor_name" not in options:
        options.setdefault("postprocessor", MCMPostprocessor())
    return Evaluator(net, id_name, **options)


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
    name = register_benchmark(own_yaml(root, "plain"))
    evaluator = make(net, None, id_name=name, protocol=protocol)
    with pytest.raises(BenchmarkError, match=r"'plain' has none; .*ood_dataset\.csid"):
        evaluator.eval_ood(fsood=True, progress=False)


def test_the_given_data_root_counts(net, root, tmp_path):
    (tmp_path / "benchmark_imglist").symlink_to(root / "benchmark_imglist")
    (tmp_path / "images_classic").symlink_to(root / "images_classic")
    name = register_benchmark(own_yaml(root, "movable"))
    evaluator = make(net, tmp_path, id_name=name)
    assert evaluator.dataloader_dict["id"]["test"].dataset.data_dir.startswith(str(tmp_path))
    evaluator = make(net, None, id_name=name)
    assert evaluator.dataloader_dict["id"]["test"].dataset.data_dir.startswith(str(root))
    with pytest.raises(BenchmarkError, match="lacks the image lists .*nowhere"):
        make(net, tmp_path / "nowhere", id_name=name)


def test_another_yaml_of_the_same_name_is_refused(root, tmp_path):
    path = own_yaml(root, "twin")
    assert register_benchmark(path) == register_benchmark(path) == "twin"
    other = own_yaml(tmp_path, "twin")  # the same words, another folder of images
    with pytest.raises(SettingsError, match="'twin' is registered already, from"):
        register_benchmark(other)
    assert register_benchmark(other, replace=True) == "twin"


def test_the_yaml_is_checked_as_for_eval(root, tmp_path):
    with pytest.raises(BenchmarkError, match="num_classes is 3, but there are 10"):
        register_benchmark(own_yaml(root, "three", num_classes=3))
    path = own_yaml(root, "alike")
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
    path = own_yaml(root, "shifted")
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
    path = own_yaml(root, name)
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

"""`python -m openood_interneg.main` with the real OpenOOD: whole runs, and what is refused before
them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openood_standin import REAL_MISSING, needs_openood
from real_openood import COLUMNS, INDEX, evaluator_of, own_yaml

pytestmark = [needs_openood, pytest.mark.usefixtures("cifar10_names")]

if REAL_MISSING is None:
    from openood_interneg.main import main
    from openood_interneg.plugin.main_config import packaged, tell_backbones_apart
    from openood_interneg.plugin.main_evaluator import MixedOODEvaluator
    from openood_interneg.plugin.postprocessors import InterNegPostprocessor, MCMPostprocessor

PARTS = "networks/clip_b16", "preprocessors/clip", "pipelines/mixed", "postprocessors/mcm"


CONFIGS = ["configs/datasets/cifar10/cifar10.yml", *(f"configs/{part}.yml" for part in PARTS)]

NETWORK = ["configs/networks/clip_b16.yml", "configs/preprocessors/clip.yml"]
SMALL = ["--network.backbone", "miniature", "--num_workers", "0"]


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


@pytest.mark.slow
def test_main_mixed(tmp_path, net, root, settings):
    arguments = [f"--postprocessor.postprocessor_args.{k}={v}" for k, v in settings.items()]
    rows = run_main(
        tmp_path, "--config", "configs/datasets/cifar10/cifar10.yml", *NETWORK,
        "configs/pipelines/mixed.yml", "configs/postprocessors/interneg.yml",
        "--data_root", root, *SMALL, "--dataset.class_names", root / "names.txt",
        "--evaluator.batch_size", "16", *arguments,
    )  # fmt: skip
    made = InterNegPostprocessor(**settings)
    table = evaluator_of(net, root, postprocessor=made, batch_size=16).eval_ood(progress=False)
    assert list(rows) == ["dataset", *INDEX]
    for name in INDEX:
        for column, value in zip(COLUMNS, rows[name], strict=True):
            assert float(value) == pytest.approx(table.loc[name, column], abs=0.011)


@pytest.mark.slow
def test_main_with_openoods_own_protocol_search_and_method(tmp_path, root, far_only, settings):
    """OpenOOD's `ood` evaluator and APS pipeline with our method; a short YAML with mixed."""
    (tmp_path / "aps").mkdir()
    rows = run_main(
        tmp_path / "aps", "--config", "configs/datasets/cifar10/cifar10.yml", *NETWORK,
        "configs/pipelines/openood.yml", "configs/postprocessors/mcm.yml",
        "--data_root", root, *SMALL, "--postprocessor.APS_mode", "True",
        "--dataset.class_names", root / "names.txt",
    )  # fmt: skip
    assert list(rows) == ["dataset", *INDEX]
    (tmp_path / "short").mkdir()
    rows = run_main(
        tmp_path / "short", "--config", far_only, *NETWORK, "configs/pipelines/mixed.yml",
        "configs/postprocessors/mcm.yml", "--data_root", root, *SMALL,
    )  # fmt: skip
    assert list(rows) == ["dataset", "mnist", "farood"]


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
    own = [own_yaml(root, "ours"), *CONFIGS[1:]]
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


def test_mains_search_shows_them_too():
    block = {"APS_mode": True, "postprocessor_sweep": {"tau_list": [0.5, 1.0]}}
    made = object.__new__(MixedOODEvaluator)
    made.searched = MCMPostprocessor({"postprocessor": block})
    assert str(made.recursive_generator([[0.5, 1.0]], 1)) == "[tau=0.5, tau=1.0]"

"""The `interneg` command as a subprocess, on a small drawn benchmark, and its refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from openood_interneg.cli import main
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.evaluation.metrics import METRICS

pytestmark = pytest.mark.slow

KEYS = ["benchmark", "backbone", "method", "protocol", "seed", "dataset", *METRICS]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_benchmark(root / "data", seed=1, train_per_class=16, test_per_class=6, near=40, far=30)
    words = ["dog", "river", "engine", "cloud", "ladder", "red", "happy", "star", "Mug", "theory"]
    more = [f"{a} {b}" for a in words[:5] for b in ("party", "house", "color", "machine")]
    (root / "words.txt").write_text("\n".join(words + more), encoding="utf-8")
    return root


def interneg(*args, cache: Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "openood_interneg.cli", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ
        | {"INTERNEG_CACHE": str(cache), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def bare(world, *args):
    return ("eval", "--data-root", world / "data", "--backbone", "miniature", *args)


def small(world, *args):
    return bare(world, "--corpus", world / "words.txt", "--num-negatives", 20, *args)


def test_eval_writes_what_it_prints(world, tmp_path):
    out = tmp_path / "out"
    done = interneg(*small(world, "--seeds", "0,1", "--out", out), cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "results.json").read_text())
    assert all(list(row) == KEYS for row in rows)
    # 4 methods x 2 seeds x (4 sets + 2 group means)
    assert len(rows) == 4 * 2 * 6
    frame = pd.read_csv(out / "results.csv")
    pd.testing.assert_frame_equal(frame, pd.DataFrame(rows), check_exact=False)
    near = [r for r in rows if r["dataset"] == "nearood"]
    assert near and all(0 <= r[m] <= 100 for r in rows for m in METRICS)
    far = frame[frame["dataset"].isin(["textures", "letters", "noise"])]
    mean = far.groupby(["method", "seed"])["AUROC"].mean()
    given = frame[frame["dataset"] == "farood"].set_index(["method", "seed"])["AUROC"]
    assert np.allclose(mean.sort_index(), given.sort_index())
    for title in ("MCM", "NegLabel", "InterNeg, no bank"):
        assert title in done.stdout
    best = f"{frame[frame['dataset'] == 'noise'].groupby('method')['AUROC'].mean().max():.2f}"
    assert best in done.stdout
    scores = np.load(out / "scores" / "interneg.seed1.noise.npz")
    assert scores["id_score"].shape == (60,) and scores["ood_score"].shape == (30,)
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["interneg"]["num_negatives"] == 20
    assert record["backbone"]["weights"] and record["versions"]["torch"]

    # a second run replays from the stores: same figures, nothing encoded
    again = interneg(*small(world, "--seeds", "0,1", "--quiet"), cache=tmp_path / "cache")
    assert again.stdout == done.stdout and again.stderr == ""
    # without a cache the figures are the same, too
    fresh = interneg(*small(world, "--seeds", "0,1", "--no-cache"), cache=tmp_path / "none")
    assert fresh.stdout == done.stdout
    assert not (tmp_path / "none").exists()


def test_config_file_and_openood_protocol(world, tmp_path):
    config = tmp_path / "settings.yml"
    config.write_text("postprocessor:\n  name: interneg\n  postprocessor_args:\n    beta: 0.2\n")
    args = small(world, "--config", config, "--protocol", "openood", "--methods", "interneg")
    done = interneg(*args, "--out", tmp_path / "out", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["interneg"]["beta"] == 0.2
    assert "not comparable" in done.stderr


def test_own_benchmark_in_one_yaml(world, tmp_path):
    (tmp_path / "classes.txt").write_text(
        "\n".join("star heart house tree fish car key mushroom umbrella mug".split())
    )
    lists = world / "data" / "benchmark_imglist" / "miniature"
    images = world / "data" / "images_classic"
    (tmp_path / "mine.yml").write_text(
        f"""
dataset:
  name: mine
  class_names: classes.txt
  train: {{data_dir: {images}, imglist_pth: {lists / "train_shapes.txt"}}}
  test: {{data_dir: {images}, imglist_pth: {lists / "test_shapes.txt"}}}
ood_dataset:
  farood:
    datasets: [static]
    static: {{data_dir: {images}, imglist_pth: {lists / "test_noise.txt"}}}
"""
    )
    args = ("eval", "--bench", tmp_path / "mine.yml", "--backbone", "miniature")
    done = interneg(*args, "--methods", "mcm", "--limit", "20", cache=tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout and "static" in done.stdout


def test_mine_writes_the_texts(world, tmp_path):
    out = tmp_path / "negatives.csv"
    args = ("mine", "--data-root", world / "data", "--backbone", "miniature")
    args += ("--corpus", world / "words.txt", "--num-negatives", "8", "--out", out)
    done = interneg(*args, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    data = pd.read_csv(out)
    assert list(data) == ["word", "part_of_speech", "deviation_degree", "margin"]
    assert len(data) == 8 and (data["margin"] < 0).all()
    assert data["deviation_degree"].is_monotonic_decreasing  # one part of speech only
    assert not {"star", "mug", "Mug"} & set(data["word"])  # class names are out, in any case


def test_doctor(world, tmp_path):
    done = interneg("doctor", cache=tmp_path)
    assert done.returncode == 0 and "torch" in done.stdout and "miniature" in done.stdout
    good = interneg("doctor", "--bench", "miniature", "--data-root", world / "data", cache=tmp_path)
    assert good.returncode == 0 and "complete: 10 classes" in good.stdout
    assert "every image was read" in " ".join(good.stdout.replace("│", " ").split())
    bad = interneg("doctor", "--bench", "cifar10", "--data-root", tmp_path, cache=tmp_path)
    assert bad.returncode == 1 and "no image list" in bad.stdout


def test_ctrl_c_leaves_no_broken_file(world, tmp_path):
    """Interrupted while encoding: the store has whole files only, and the next run goes on."""
    import signal
    import time

    command = [sys.executable, "-m", "openood_interneg.cli"]
    command += map(str, bare(world, "--methods", "mcm", "--encode-batch", "1"))
    env = os.environ | {"INTERNEG_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    if process.returncode != 0:  # it may just have finished
        assert process.returncode == 130
        assert b"interrupted" in stderr and b"Traceback" not in stderr
    assert not list(tmp_path.rglob("*.tmp"))
    done = interneg(*bare(world, "--methods", "mcm"), cache=tmp_path)
    assert done.returncode == 0, done.stderr


REFUSALS = {
    "unknown benchmark": (("--bench", "cifar11"), "unknown benchmark 'cifar11'"),
    "absent data set": (
        ("--bench", "cifar10", "--data-root", "/nowhere"),
        "point --data-root to the folder",
    ),
    "unknown method": (("--methods", "intrneg"), "did you mean 'interneg'"),
    "setting of no method": (("--methods", "mcm", "--beta", "0.3"), "no chosen method has"),
    "out of range": (("--beta", "1.5"), "beta is 1.5; it must be at most 1"),
    "wrong choice": (("--update", "often"), "choose one of batch, sample"),
    "missing weights": (("--backbone", "ViT-B/32"), "Three remedies"),
    "unknown backbone": (("--backbone", "ViT-Z/1"), "unknown backbone 'ViT-Z/1'"),
    "absent checkpoint": (("--backbone", "gone.safetensors"), "no checkpoint at gone"),
    "absent corpus": (("--corpus", "gone.txt"), "gone.txt"),
    "unknown device": (("--device", "abacus"), "device 'abacus' cannot be used"),
    "bad seeds": (("--seeds", "a"), "write whole numbers"),
    "unknown protocol": (("--protocol", "shuffled"), "choose one of mixed, openood"),
    "unknown precision": (("--precision", "int3"), "choose one of fp32"),
    "unknown template": (("--templates", "nonsense", "--methods", "interneg"), "nonsense"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(world, tmp_path, case, monkeypatch, capsys):
    given, message = REFUSALS[case]
    defaults = {"--data-root": str(world / "data"), "--backbone": "miniature"}
    defaults |= {"--corpus": str(world / "words.txt"), "--methods": "mcm,interneg"}
    merged = defaults | dict(zip(given[::2], given[1::2], strict=True))
    args = [part for pair in merged.items() for part in pair]
    out = tmp_path / "out"
    monkeypatch.setenv("INTERNEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["interneg", "eval", *args, "--out", str(out)])
    with pytest.raises(SystemExit) as stop:  # in this process: the same entry point, but quick
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    text = " ".join(printed.err.split())
    assert "error:" in text and message in text, text
    assert printed.out == "" and not out.exists()


def test_damaged_inputs(world, tmp_path):
    """A config typo, a missing image, a corrupt image, a truncated store."""
    config = tmp_path / "typo.yml"
    config.write_text("bta: 0.3\n")
    done = interneg(*small(world, "--config", config), cache=tmp_path)
    assert done.returncode == 1 and "did you mean 'beta'" in done.stderr
    config.write_text("beta: 1e-4\n")
    done = interneg(*small(world, "--config", config), cache=tmp_path)
    assert done.returncode == 1 and "write 1.0e-4" in " ".join(done.stderr.split())

    data = tmp_path / "data"
    write_benchmark(data, seed=1, train_per_class=2, test_per_class=2, near=20, far=15)
    args = ("eval", "--data-root", data, "--backbone", "miniature", "--methods", "mcm")
    victim = next((data / "images_classic").rglob("test/**/*.png"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    done = interneg(*args, cache=tmp_path / "c")
    assert done.returncode == 1 and str(victim) in "".join(done.stderr.split("\n"))
    victim.unlink()
    done = interneg(*args, cache=tmp_path / "c")
    assert done.returncode == 1 and "1 of " in done.stderr and victim.name in done.stderr
    victim.write_bytes(whole)
    good = interneg(*args, cache=tmp_path / "c")
    assert good.returncode == 0, good.stderr
    for shard in (tmp_path / "c" / "features").rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    assert interneg(*args, "--quiet", cache=tmp_path / "c").stdout == good.stdout

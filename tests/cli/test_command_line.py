"""What the commands promise before, during and after their work; in this process."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from openood_interneg.demo.benchmark import write_benchmark


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_benchmark(root / "data", seed=1, train_per_class=3, test_per_class=2, near=10, far=6)
    words = ["dog", "river", "engine", "cloud", "ladder", "red", "happy", "star", "Mug", "theory"]
    (root / "words.txt").write_text("\n".join(words), encoding="utf-8")
    (root / "cache").mkdir()
    return root


@pytest.fixture
def interneg(world, commands):
    """Runs a command: (exit code, stdout, stderr), the latter in one line."""
    return commands(world / "cache")


def on(world, command="eval"):
    return (command, "--data-root", world / "data")


MINED = ("--num-negatives", 6, "--images-per-class", 2)


# ---- settings --------------------------------------------------------------------------------


def test_settings_that_no_chosen_method_has_are_refused(world, interneg):
    given = ("--methods", "mcm", "--num-negatives", 5, "--noun-prompt", "csp")
    code, _, err = interneg(*on(world), *given)
    assert code == 1 and "no chosen method has a setting 'noun_prompt'" in err
    assert "these have: neglabel" in err


def test_what_a_row_fixes_is_not_taken_without_a_word(world, interneg):
    rows = ("--methods", "interneg_negatives_only")
    code, _, err = interneg(*on(world), *rows, "--bank", "inter")
    assert code == 1 and "fixes bank = none, not 'inter'" in err
    code, _, err = interneg(*on(world), *rows, "--beta", 0.2)
    assert code == 1 and "no chosen method has a setting 'beta'" in err


def test_mine_shows_the_negatives_of_evals_preprocessing_and_preset(world, interneg, tmp_path):
    words = ("--corpus", world / "words.txt", *MINED)
    for name in ("clip", "openood_vlm"):
        out = tmp_path / f"{name}.csv"
        code, _, err = interneg(*on(world, "mine"), *words, "--preprocess", name, "--out", out)
        assert code == 0, err
    a, b = ((tmp_path / f"{name}.csv").read_text() for name in ("clip", "openood_vlm"))
    assert a != b
    code, _, err = interneg(*on(world, "mine"), *words, "--preset", "imagnet")
    assert code == 1 and "no preset 'imagnet'" in err
    code, _, err = interneg(*on(world, "encode"), *words, "--preset", "imagnet")
    assert code == 1 and "no preset 'imagnet'" in err


def test_help_speaks_of_each_method_and_of_no_setting_without_use(interneg, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    _, text, _ = interneg("eval", "--help")
    line = next(line for line in text.splitlines() if "--beta" in line)
    assert (
        "interneg, tins: an image that scores below this gate is a candidate for the bank" in line
    )
    assert "tanl: activated negative texts" in line and "Settings of adaneg" in text
    line = next(line for line in text.splitlines() if "--tau" in line)
    assert "mcm, energy, eoe" in line.split("temperature T on the bare cosine")[0]
    _, text, _ = interneg("mine", "--help")
    assert "--num-negatives" in text and "--beta" not in text and "--theta" not in text
    _, text, _ = interneg("encode", "--help")
    assert "--templates" in text and "--beta" not in text and "--theta" not in text


def test_seeds_and_capacities_beyond_what_a_computer_takes(world, interneg):
    code, _, err = interneg(*on(world), "--seeds", 2**64)
    assert code == 1 and "seeds go from 0 to 9223372036854775807" in err
    code, _, err = interneg(*on(world), "--proxy-seed", 2**64)
    assert code == 1 and "proxy_seed is 18446744073709551616" in err and "at most 63 bits" in err
    code, _, err = interneg(*on(world), "--methods", "interneg", "--bank-capacity", 10**9)
    assert code == 1 and "bank_capacity is 1000000000; it must be at most" in err


def test_a_config_that_is_no_regular_file_does_not_hang(world, interneg, tmp_path):
    os.mkfifo(tmp_path / "pipe.yml")
    code, _, err = interneg(*on(world), "--config", tmp_path / "pipe.yml")
    assert code == 1 and "pipe.yml" in err


def test_the_config_of_score_goes_over_the_commands_default(monkeypatch, interneg, tmp_path):
    module = importlib.import_module("openood_interneg.cli.score")
    (tmp_path / "s.yml").write_text("update: batch\n")
    seen = []

    class Seen(Exception):
        pass

    def detector(*args, **options):
        seen.append(options["settings"]["update"])
        raise Seen

    monkeypatch.setattr(module, "OODDetector", detector)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    args = ("score", tmp_path / "images", "--classes", "cifar10", "--id-images", tmp_path)
    args += ("--backbone", "miniature")
    for more in ((), ("--config", tmp_path / "s.yml")):
        with pytest.raises(Seen):
            interneg(*args, *more)
    with pytest.raises(Seen):
        interneg(*args, "--config", tmp_path / "s.yml", "--update", "sample")
    assert seen == ["sample", "batch", "sample"]


# ---- what is read ----------------------------------------------------------------------------


def test_a_missing_training_image_does_not_stop_methods_that_look_at_none(interneg, tmp_path):
    write_benchmark(tmp_path / "d", seed=2, train_per_class=2, test_per_class=1, near=4, far=3)
    for image in (tmp_path / "d").rglob("train/**/*.png"):
        image.unlink()
    args = ("eval", "--data-root", tmp_path / "d", "--quiet")
    code, out, err = interneg(*args, "--methods", "mcm,energy,maxlogit")
    assert code == 0 and "MCM" in out, err
    code, _, err = interneg(*args, "--methods", "mcm,clip_knn")
    assert code == 1 and "20 of 20 images of" in err and "are not there" in err


def test_eval_without_a_backbone_gives_the_miniature_its_own(world, interneg, tmp_path):
    code, out, err = interneg(*on(world), "--methods", "mcm", "--out", tmp_path / "o", "-q")
    assert code == 0 and "miniature" in out, err
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert run["backbone"]["name"] == "miniature"


def test_eval_without_a_folder_draws_the_miniature(monkeypatch, interneg, tmp_path):
    import openood_interneg.cli.workspace as module

    small = {"train_per_class": 2, "test_per_class": 1, "near": 4, "far": 3}
    monkeypatch.setattr(
        module, "write_benchmark", lambda root, progress: write_benchmark(root, **small)
    )
    code, out, err = interneg("eval", "--methods", "mcm", "--cache-dir", tmp_path, "--quiet")
    assert code == 0 and "MCM" in out, err
    assert (tmp_path / "miniature" / "benchmark_imglist").is_dir()


def test_a_method_that_gives_nan_is_named(world, interneg, monkeypatch):
    from openood_interneg.detectors.mcm import MCM
    from openood_interneg.detectors.scores import Scores

    step = MCM._step

    def spoilt(self, *args):
        pred, score = step(self, *args)
        return Scores(pred, score * np.nan)

    monkeypatch.setattr(MCM, "_step", spoilt)
    code, _, err = interneg(*on(world), "--methods", "mcm")
    assert code == 1 and "method 'mcm' gives NaN or infinity for" in err


# ---- where results go ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["eval", "demo", "reproduce"])
def test_an_out_that_is_a_file_is_refused_before_any_work(command, interneg, tmp_path):
    (tmp_path / "file").write_text("kept")
    args = {"eval": (), "demo": (), "reproduce": ("table3", "--bench", "miniature")}[command]
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = interneg(command, *args, "--out", out, "--cache-dir", tmp_path / "c")
        assert code == 1 and "--out" in err and str(tmp_path / "file") in err
        assert not (tmp_path / "c").exists() and (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("command", ["mine", "score"])
def test_an_out_that_is_a_folder_or_a_dangling_link_is_refused(command, interneg, tmp_path):
    args = ()
    if command == "score":
        args = (tmp_path, "--classes", "cifar10", "--id-images", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "away")
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "below"):
        code, _, err = interneg(command, *args, "--out", out)
        assert code == 1 and "--out" in err
    code, _, err = interneg("eval", "--out", tmp_path / "link")
    assert code == 1 and "link to what is not there" in err


def test_score_keeps_results_that_are_there(interneg, tmp_path):
    (tmp_path / "old.jsonl").write_text("{}\n" * 5)
    (tmp_path / "a.png").touch()
    args = ("score", tmp_path / "a.png", "--classes", "cifar10", "--id-images", tmp_path)
    args += ("--backbone", "miniature", "--out", tmp_path / "old.jsonl")
    for more in ((), ("--state", tmp_path / "new.state")):
        code, _, err = interneg(*args, *more)
        assert code == 1 and "would be overwritten" in err and "--force" in err
    assert (tmp_path / "old.jsonl").read_text() == "{}\n" * 5
    code, _, err = interneg(*args, "--force")
    assert code == 1 and "would be overwritten" not in err  # the next complaint: no ID images


# ---- how it ends -----------------------------------------------------------------------------


def run_shell(script, **environment):
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.slow
def test_a_full_disk_ends_in_a_message():
    command = f"{sys.executable} -m openood_interneg.cli methods"
    done = run_shell(f"{command} > /dev/full")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.slow
def test_a_closed_pipe_ends_without_a_word():
    command = f"{sys.executable} -m openood_interneg.cli methods"
    done = run_shell(f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert done.stderr == "" and done.returncode in (0, 1)


def test_errors_of_the_system_are_messages():
    from openood_interneg.cli.console import guarded, system_error

    def full():
        raise OSError(28, "No space left on device", "/cache/x")

    with pytest.raises(SystemExit) as stop:
        guarded(full)()
    assert stop.value.code == 1
    rust = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert "free some" in system_error(RuntimeError(rust))
    with pytest.raises(ZeroDivisionError):  # a bug stays a traceback
        guarded(lambda: 1 / 0)()


def test_version_is_said(interneg):
    code, out, _ = interneg("--version")
    assert code == 0 and out.startswith("interneg ")


# ---- compare ---------------------------------------------------------------------------------


def test_compare_takes_folders_and_names_what_differed(world, interneg, tmp_path):
    args = (*on(world), "--methods", "neglabel", "--corpus", world / "words.txt", *MINED, "-q")
    for name, more in (("a", ()), ("b", ("--batch-size", 7, "--tau", 0.5))):
        code, _, err = interneg(*args, *more, "--out", tmp_path / name)
        assert code == 0, err
    for file in ("", "results.json", "run.json"):
        code, out, _ = interneg("compare", tmp_path / "a" / file, tmp_path / "b" / file)
        assert code == 1 and "run.batch_size" in out and "run.settings.neglabel.tau" in out
    code, out, _ = interneg("compare", tmp_path / "a", tmp_path / "a")
    assert code == 0 and "no difference" in out
    (tmp_path / "empty").mkdir()
    code, _, err = interneg("compare", tmp_path / "a", tmp_path / "empty")
    assert code == 1 and "no results.json, run.json or report.json in" in err

"""`interneg eval --id FOLDER --ood FOLDER` and `--bench FOLDER`; in this process."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from openood_interneg.demo import ID_KINDS, NEAR_KINDS, draw, image_rng


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three drawn classes, two sets of other drawings."""
    root = tmp_path_factory.mktemp("own")
    for kind in ID_KINDS[:3]:
        drawn(root / "zoo" / "id" / kind, kind, 4)
    for kind in NEAR_KINDS[:2]:
        drawn(root / "zoo" / "ood" / kind, kind, 3)
    return root / "zoo"


def drawn(folder, kind, count):
    folder.mkdir(parents=True)
    for i in range(count):
        draw(kind, image_rng(0, "test", i)).save(folder / f"{i}.png")


@pytest.fixture
def interneg(zoo, commands):
    """Runs a command: (exit code, stdout, stderr), the latter in one line."""
    return commands(zoo.parent / "cache")


EVAL = ("eval", "--backbone", "miniature", "--methods", "mcm", "--device", "cpu")


@pytest.mark.slow
def test_folders_give_the_figures_of_a_benchmark_and_the_rule_is_said(zoo, interneg, tmp_path):
    sets = [zoo / "ood" / kind for kind in NEAR_KINDS[:2]]
    given = ("--id", zoo / "id", "--ood", sets[0], "--near", f"foes={sets[1]}")
    code, out, err = interneg(*EVAL, *given, "--out", tmp_path / "out")
    assert code == 0 and "foes" in out, err
    assert "ID: 6 images of 3 classes in" in err and "hashes come first (at most half)" in err
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    names = [NEAR_KINDS[0], "foes", "nearood", "farood"]
    assert sorted(row["dataset"] for row in rows) == sorted(names)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["benchmark"]["source"] == (
        f"--id {zoo / 'id'} --near foes={sets[1]} --ood {sets[0]}"
    )
    assert record["benchmark"]["lists"]["train"]["images"] == 6

    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert len(scores) == 2 * (6 + 3) and all(Path(file).is_file() for file in scores["file"])
    id_rows = scores[(scores["stream"] == "foes") & (scores["set"] == "id")]
    assert [Path(file).parent.name for file in id_rows["file"]] == id_rows["label"].tolist()
    (row,) = [row for row in rows if row["dataset"] == "foes"]
    assert row["ACC"] == pytest.approx(100 * (id_rows["label"] == id_rows["prediction"]).mean())
    own = scores[scores["stream"] == "foes"]
    assert row["AUROC"] == pytest.approx(100 * roc_auc_score(own["set"] == "id", own["score"]))
    assert (tmp_path / "out" / "scores" / "mcm.seed0.foes.npz").is_file()

    code, out, err = interneg(
        *EVAL, "--bench", zoo, "--out", tmp_path / "b", "--train-per-class", 1
    )
    assert code == 0 and "ID: 9 images of 3 classes" in err and f"{NEAR_KINDS[0]} (far, 3)" in err
    code, out, err = interneg(*EVAL, "--bench", zoo, "--quiet")
    assert code == 0 and err == ""


def test_a_file_that_is_no_image_is_one_line_of_warning(zoo, interneg, tmp_path):
    shutil.copytree(zoo, tmp_path / "zoo")
    (tmp_path / "zoo" / "ood" / NEAR_KINDS[0] / "notes.txt").touch()
    code, _, err = interneg(*EVAL, "--bench", tmp_path / "zoo")
    assert code == 0 and "warning: " in err and "(first: notes.txt)" in err
    assert "UserWarning" not in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--ood", "ood"), "--ood goes with --id FOLDER"),
        (("--train", "id"), "--train goes with --id FOLDER"),
        (("--id", "id"), "no OOD set to tell from id"),
        (("--id", "id", "--ood", "nowhere"), "nowhere is not there; give a folder"),
        (("--id", "id", "--bench", "miniature"), "--id and --bench each give the ID images"),
        (("--id", "id", "--ood", "ood", "--data-root", "."), "--data-root goes with lists"),
        (("--bench", ".", "--data-root", "."), "--data-root goes with lists"),
        (("--bench", "cifar10", "--train-per-class", 3), "--train-per-class splits folders"),
        (("--id", "id", "--ood", "a=ood", "--ood", "a=id"), "two folders of --ood are named 'a'"),
        (("--id", "id", "--ood", "a=ood", "--near", "a=id"), "are one folder"),
        (
            ("--id", "id", "--ood", "ood", "--train", "id", "--train-per-class", 2),
            "leave --train-per-class out",
        ),
        (("--bench", "cifar10", "--classes", "cifar10"), "--classes names the subfolders"),
        (("--bench", ".", "--classes", "cifar10"), "no subfolder for 10 of 10 classes: 'airplane'"),
        (("--bench", "id"), "id has no subfolder id; a benchmark's folder has id/CLASS/"),
    ],
)
def test_options_that_do_not_go_together(zoo, interneg, monkeypatch, args, message):
    monkeypatch.chdir(zoo)
    code, out, err = interneg(*EVAL, *args)
    assert code == 1 and out == "" and message in err


def test_doctor_reads_every_image_of_a_folder(zoo, interneg):
    code, out, _ = interneg("doctor", "--bench", zoo)
    text = " ".join(out.replace("│", " ").split())
    assert code == 0 and "complete: 3 classes" in text and "every image was read" in text

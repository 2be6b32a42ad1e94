"""`interneg score` with any method: class names alone, subfolders, tables, its last message."""

import csv
import json

import pytest
from drawn_world import CLASSES, stream_files, world

from openood_interneg.application import detector as module
from openood_interneg.cli import app

WORDS = ("--corpus", world() / "words.txt", "--num-negatives", 20)


@pytest.fixture
def score(tmp_path, capsysbinary):
    """(exit code, lines, messages) of `interneg score` on six images."""
    (tmp_path / "list.txt").write_text("\n".join(map(str, stream_files()[:6])))

    def run(*args):
        options = ("score", tmp_path / "list.txt", "--backbone", "miniature", "--no-cache")
        code = 0
        try:
            app([str(arg) for arg in (*options, *args)], standalone_mode=False)
        except SystemExit as end:
            code = end.code
        out, err = capsysbinary.readouterr()
        return code, out.splitlines(), " ".join(err.decode().split())

    return run


def test_class_names_alone_give_scores(score):
    code, lines, err = score("--classes", world() / "classes.txt", "--method", "mcm")
    assert code == 0 and "scores only; give --calibrate or --gamma" in err, err
    records = [json.loads(line) for line in lines]
    assert len(records) == 6 and all(r["prediction"] is r["unknown"] is None for r in records)
    assert all(r["label"] in CLASSES and "gamma" not in r and "p" not in r for r in records)
    assert "6 images; 0 could not be read; not calibrated" in err
    code, lines, err = score(
        "--classes", world() / "classes.txt", "--method", "mcm", "--gamma", 0.3
    )
    assert code == 0 and {json.loads(line)["gamma"] for line in lines} == {0.3}


def test_a_method_without_proxies_is_calibrated_with_a_folder(score):
    args = ("--classes", world() / "classes.txt", "--method", "neglabel", "--groups", 2, *WORDS)
    code, lines, err = score(*args, "--calibrate", world() / "id", "--tpr", 0.9)
    assert code == 0, err
    records = [json.loads(line) for line in lines]
    assert all(r["unknown"] == (r["score"] < r["gamma"]) for r in records)
    unknown = sum(r["unknown"] for r in records)
    assert f"6 images; {unknown} unknown; 0 could not be read; gamma " in err
    assert "(follows 56 images at tpr 0.9); false alarms of the calibration images 8.9%" in err
    code, _, err = score(*args, "--calibrate", world() / "id", "--gamma", 0.5)
    assert code == 1 and "--gamma and --calibrate contradict each other" in err


def test_subfolders_name_the_classes(score, tmp_path):
    out = tmp_path / "out.csv"
    args = ("--id-images", world() / "id", "--method", "rationeg", "--images-per-class", 6, *WORDS)
    code, lines, err = score(*args, "--alpha", 0.2, "--out", out)
    assert code == 0 and not lines and "unknown where p <= 0.2" in err, err
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 6 and {row["label"] for row in rows} <= set(CLASSES)
    assert all((row["unknown"] == "True") == (float(row["p"]) <= 0.2000001) for row in rows)
    assert {row["gamma"] for row in rows} == {""}
    code, _, err = score("--method", "mcm")
    assert code == 1 and "there are no class names; give --classes" in err


@pytest.mark.slow
def test_id_images_that_are_left_calibrate_a_method_with_p_values(score):
    args = ("--id-images", world() / "id", "--method", "rationeg", "--images-per-class", 4, *WORDS)
    code, lines, err = score(*args)
    assert code == 0 and "images at tpr 0.95)" in err and "calibrate: gamma" in err, err
    records = [json.loads(line) for line in lines]
    assert all(r["gamma"] is not None and 0 < r["p"] <= 1 for r in records)
    assert all(r["unknown"] == (r["score"] < r["gamma"]) for r in records)
    code, lines, err = score(*args, "--images-per-class", 16)  # none is left
    assert code == 0 and "unknown where p <= 0.05" in err, err


def test_a_table_is_continued_under_its_head(score, tmp_path):
    out, state = tmp_path / "out.csv", tmp_path / "state.safetensors"
    args = ("--classes", world() / "classes.txt", "--method", "mcm", "--gamma", 0.3)
    kept = ("--out", out, "--state", state)
    assert score(*args, *kept)[0] == 0 and score(*args, *kept, "--append")[0] == 0
    rows = list(csv.DictReader(out.open()))
    assert [int(row["position"]) for row in rows] == list(range(12))
    code, _, err = score("--classes", world() / "classes.txt", "--method", "energy", *kept)
    assert code == 1 and "method: mcm in the state, energy here" in err


def test_the_default_of_the_command_is_that_of_the_class():
    assert module.OODDetector("no such model", cache=False).method.name == module.DEFAULT_METHOD

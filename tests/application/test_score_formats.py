"""`interneg score --out`: the suffix says the format, and what cannot be is refused before work."""

import json

import pandas as pd
import pytest
from drawn_world import stream_files, world

from openood_interneg.application.stream import Scored
from openood_interneg.cli import app, score_output
from openood_interneg.cli.score_output import csv_line


@pytest.fixture
def score(tmp_path, capsys):
    """(exit code, messages) of `interneg score` on five images and a file that is none."""
    (tmp_path / "no.png").write_text("no image")
    names = [*stream_files()[:5], tmp_path / "no.png"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, names)))
    options = ("score", tmp_path / "list.txt", "--classes", world() / "classes.txt")
    options += ("--backbone", "miniature", "--method", "mcm", "--no-cache", "--gamma", 0.3)

    def run(*args):
        code = 0
        try:
            app([str(arg) for arg in (*options, *args)], standalone_mode=False)
        except SystemExit as end:
            code = end.code
        return code, " ".join(capsys.readouterr().err.split())

    return run


def test_every_format_holds_the_same(score, tmp_path):
    pytest.importorskip("pyarrow")
    outs = [tmp_path / f"out{suffix}" for suffix in (".jsonl", ".ndjson", ".CSV", ".parquet")]
    for out in outs:
        code, err = score("--out", out)
        assert code == 0, err
    lines, again = (pd.DataFrame(map(json.loads, out.open())) for out in outs[:2])
    pd.testing.assert_frame_equal(lines, again)
    table, parquet = pd.read_csv(outs[2]), pd.read_parquet(outs[3])
    assert list(table) == list(parquet) == list(score_output.COLUMNS)
    for name in ("position", "file", "prediction", "label", "score", "gamma"):
        assert parquet[name].tolist()[:5] == table[name].tolist()[:5] == lines[name].tolist()[:5]
    assert parquet["unknown"].tolist()[:5] == lines["unknown"].tolist()[:5]
    assert parquet["unknown"].isna().tolist() == [False] * 5 + [True]
    assert "cannot read the image" in parquet["error"].iloc[5] and parquet["p"].isna().all()
    code, err = score("--out", outs[3])
    assert code == 1 and "would be overwritten" in err


def test_a_parquet_file_of_several_groups(score, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(score_output, "ROWS_PER_GROUP", 4)
    assert score("--out", tmp_path / "out.parquet")[0] == 0
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups == 2
    assert file.read().column("position").to_pylist() == list(range(6))


def test_a_run_that_ends_in_an_error_leaves_no_parquet_file(score, tmp_path):
    pytest.importorskip("pyarrow")
    code, err = score("--out", tmp_path / "out.parquet", "--on-error", "stop")
    assert code == 1 and "cannot read the image" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "no.png"]


@pytest.mark.parametrize(
    ("out", "more", "message"),
    [
        ("out.json", (), "out.json ends in .json, which says no format; end it in .jsonl"),
        ("out", (), "out ends in no suffix"),
        ("out.xlsx", ("--force",), "ends in .xlsx"),
        ("out.parquet", ("--state", "s"), "cannot be continued, since a Parquet file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    score, tmp_path, monkeypatch, out, more, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    before = sorted(tmp_path.iterdir())
    code, err = score("--out", out, *more, "--backbone", "no such model")
    assert code == 1 and message in err and sorted(tmp_path.iterdir()) == before


def test_parquet_without_pyarrow_says_what_to_install(score, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, err = score("--out", tmp_path / "out.parquet")
    assert code == 1 and "out.parquet needs the package pyarrow" in err
    assert "pip install 'openood-interneg[parquet]'" in err


def test_a_name_is_no_formula_in_a_table():
    line = csv_line(Scored(0, "=cmd()", "-dog", "unknown", -0.5))
    assert line.decode() == "0,'=cmd(),unknown,'-dog,-0.5,True,,,\n"

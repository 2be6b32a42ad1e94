"""Scores with names: every image, its true class or set, and what was said of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from openood_interneg import Benchmark, image_frame
from openood_interneg.data.image_lists import ImageList
from openood_interneg.evaluation.image_scores import COLUMNS, write_image_scores
from openood_interneg.evaluation.protocols import Run
from openood_interneg.evaluation.rows import Results


def images(name, labels, paths=None) -> ImageList:
    paths = paths or [f"{name}/{i}.png" for i in range(len(labels))]
    return ImageList(name, Path("data"), tuple(paths), np.array(labels))


def run(ood, p=None) -> Run:
    scores = np.float32([0.9, 0.1, 0.7])
    values = (np.array([0, 0, 1]), scores, np.linspace(0, 1, ood, dtype=np.float32))
    return Run(*values, np.ones(ood, dtype=np.int64), *(p or (None, None)))


@pytest.fixture
def evaluated():
    far = images("far", [-1, -1], ["=1+1.png", 'a "b", c.png'])
    benchmark = Benchmark(
        "b", ("cat", "dog"), None, images("own", [0, 1, 1]), (images("near", [-1]),), (far,)
    )
    results = Results()
    for seed in (0, 7):
        results.scores["mcm", seed, "near"] = run(1)
        results.scores["tins", seed, "far"] = run(2, (np.ones(3), np.array([0.5, 0.25])))
    return results, benchmark


def test_one_row_per_image_of_each_stream(evaluated):
    data = image_frame(*evaluated)
    assert tuple(data) == COLUMNS and len(data) == 2 * (4 + 5)
    part = data[(data["method"] == "tins") & (data["seed"] == 7)]
    assert part["file"].tolist()[0] == "data/own/0.png" and set(part["stream"]) == {"far"}
    assert part["set"].tolist() == ["id"] * 3 + ["far"] * 2
    assert part["label"].tolist()[:3] == ["cat", "dog", "dog"] and part["label"][-2:].isna().all()
    assert part["prediction"].tolist() == ["cat", "cat", "dog", "dog", "dog"]
    assert part["score"].tolist() == np.float32([0.9, 0.1, 0.7, 0, 1]).tolist()
    assert part["p"].tolist() == [1, 1, 1, 0.5, 0.25]
    assert data[data["method"] == "mcm"]["p"].isna().all()
    assert image_frame(Results(), evaluated[1]).empty


def test_the_csv_holds_the_same_and_no_formula(evaluated, tmp_path):
    write_image_scores(tmp_path, *evaluated)
    data, read = image_frame(*evaluated), pd.read_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read.drop(columns="label"), data.drop(columns="label"))
    assert read["label"].fillna("").tolist() == data["label"].fillna("").tolist()
    evaluated[0].scores["=mcm", 0, "near"] = run(1)
    write_image_scores(tmp_path, *evaluated)
    assert "'=mcm,0,near" in (tmp_path / "scores.csv").read_text()


def test_the_parquet_file_is_the_frame(evaluated, tmp_path):
    pytest.importorskip("pyarrow")
    assert write_image_scores(tmp_path, *evaluated) is None
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "scores.parquet"), image_frame(*evaluated)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.parquet"]


def test_without_pyarrow_no_parquet_file_of_an_earlier_run_stays(evaluated, tmp_path, monkeypatch):
    (tmp_path / "scores.parquet").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = write_image_scores(tmp_path, *evaluated)
    assert told and told.startswith("scores.parquet needs the package pyarrow")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_nothing_half_written_stays(evaluated, tmp_path):
    (tmp_path / "scores.csv").write_text("old")
    broken = Run(*vars(run(3)).values())  # of a set that has two images
    evaluated[0].scores["zoc", 0, "far"] = broken
    with pytest.raises(ValueError):
        write_image_scores(tmp_path, *evaluated)
    assert (tmp_path / "scores.csv").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_reader_of_the_docs_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "own_data.md"
    (code,) = re.findall(r"```python\n(import pandas.*?)```", page.read_text("utf-8"), re.DOTALL)
    benchmark = Benchmark(
        "b", ("cat", "dog"), None, images("own", [0, 1, 1]), (images("wolves", [-1]),), ()
    )
    results = Results()
    results.scores["mcm", 0, "wolves"] = run(1)
    (tmp_path / "results").mkdir()
    write_image_scores(tmp_path / "results", results, benchmark)
    monkeypatch.chdir(tmp_path)
    read = {}
    exec(code, read)
    assert len(read["missed"]) == 1 and read["rejected"]["score"].iloc[0] == np.float32(0.1)
    assert read["wrong"]["file"].tolist() == [str(Path("data/own/1.png"))]
    assert read["by_class"].index.tolist() == ["cat", "dog"]

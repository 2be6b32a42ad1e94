"""examples/ray_batch.py: one detector per actor, over a folder and over Parquet."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from drawn_world import CLASSES, ROOT, example, stream_files, world

from openood_interneg import OODDetector


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("states") / "detector.safetensors"
    OODDetector("miniature", "mcm", gamma=0.3, cache=world() / "store").fit(CLASSES).save(path)
    return path


def agrees(table: pd.DataFrame, state) -> None:
    files = [str(file) for file in stream_files()]
    said = OODDetector.load(state).predict(files, update=False)
    table = table.set_index("path")
    assert sorted(table.index) == sorted([*files, str(world() / "classes.txt")])
    for file, one in zip(files, said, strict=True):
        row = table.loc[file]
        assert (row.prediction, row.label) == (one.name, one.label)
        assert row.score == pytest.approx(one.score, abs=1e-5)
    bad = table.loc[str(world() / "classes.txt")]
    assert bad[["prediction", "label", "score"]].isna().all()


def rows() -> pd.DataFrame:
    files = [*stream_files()[:20], world() / "classes.txt", *stream_files()[20:]]
    return pd.DataFrame({"path": [str(file) for file in files]})


def stand_in(monkeypatch) -> None:
    if "ray" not in sys.modules:  # it is only imported
        monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))


@pytest.mark.slow
def test_the_function_that_is_mapped(state, monkeypatch):
    stand_in(monkeypatch)
    predictor = example("ray_batch").Predictor(state)
    agrees(predictor(rows()), state)
    contents = [Path(path).read_bytes() for path in rows().path]
    agrees(predictor(pd.DataFrame({"bytes": contents})).assign(path=rows().path), state)


def test_a_folder_that_is_there_is_not_written_to(state, monkeypatch, tmp_path):
    stand_in(monkeypatch)
    with pytest.raises(SystemExit, match="is there already"):
        example("ray_batch").main(state, world() / "test", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_local_ray_scores_parquet_and_a_folder(state, tmp_path):
    pytest.importorskip("ray")
    rows().to_parquet(tmp_path / "images.parquet")
    sources = {"table": tmp_path / "images.parquet", "files": world() / "test"}
    code = "import ray_batch, sys\nfor pair in zip(sys.argv[2::2], sys.argv[3::2]):"
    code += "\n    ray_batch.main(sys.argv[1], *pair)"
    command = [sys.executable, "-c", code, str(state)]
    for out, source in sources.items():
        command += [str(source), str(tmp_path / out)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    agrees(pd.read_parquet(tmp_path / "table"), state)
    files = pd.read_parquet(tmp_path / "files")
    agrees(pd.concat([files, pd.DataFrame({"path": [str(world() / "classes.txt")]})]), state)
    assert len(list(tmp_path.iterdir())) == 3

"""The snippets of docs/serving.md run one after the other; its metrics and scripts exist."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_snippets_run_around_the_export(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    first, last = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(first, "serving.md", "exec", dont_inherit=True), names)
    (script, *arguments) = re.search(r"^python (examples/export_onnx.+)$", TEXT, re.M)[1].split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    names["picture"] = names["draw"]("star", names["image_rng"](0, "test", 0))
    exec(compile(last, "serving.md", "exec", dont_inherit=True), names)
    (said,) = names["detector"].predict(names["picture"], update=False)
    assert capsys.readouterr().out.splitlines()[-1] == said.name


def test_the_page_names_what_exists():
    for script in re.findall(r"python (examples/\w+\.py)", TEXT):
        assert (ROOT / script).is_file()
    serve = (ROOT / "examples" / "serve.py").read_text(encoding="utf-8")
    for name in re.findall(r"interneg_\w+", TEXT.split("## A batch")[0]):
        assert f'"{re.sub("_(total|count|bucket)$", "", name)}"' in serve, name
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"openood-interneg\[(\w+)\]", TEXT):
        assert re.search(rf"^{extra} = \[", extras, re.M), extra

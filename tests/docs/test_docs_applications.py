"""The example of docs/applications.md runs as it stands, and the page names what exists."""

import dataclasses
import re
from pathlib import Path

import pytest

from openood_interneg.application.detector import OODDetector
from openood_interneg.detectors.protections import ProtectionSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "applications.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(code.splitlines()) < 30
    monkeypatch.chdir(tmp_path)
    # all that differs: a short list of words, so that nothing is encoded for minutes
    words = "river engine cloud ladder texture pattern letter bird wrench barn chair lamp clock"
    (tmp_path / "words.txt").write_text(words.replace(" ", "\n"))
    code = code.replace('"miniature")', '"miniature", corpus="words.txt", cache=False)')
    names = {}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(("star", "unknown")) and "labels: " in "".join(out[3:])
    assert "(follows 240 images at tpr 0.95)" in out[2] and names["detector"].gamma < 0
    assert names["detector"].fit_told.startswith("160 images fit the method, 240 calibrate: gamma")
    assert (tmp_path / "detector.safetensors").is_file()


def test_the_page_names_what_exists():
    from openood_interneg.cli.lazy import load_command

    for name in re.findall(r"^\| `(\w+)\(", TEXT, re.M):
        assert name == "OODDetector" or hasattr(OODDetector, name)
    for field in dataclasses.fields(ProtectionSettings):
        assert f"| `{field.name}` |" in TEXT
    command = load_command("score")
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)):
        assert option in known, option

"""What docs/quickstart.md says to try with drawn images works as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERNEG_CACHE", str(cache))
        yield tmp_path_factory.mktemp("quickstart")


@pytest.mark.slow
def test_the_commands_on_drawn_images_run(folder):
    blocks = [b for b in re.findall(r"```bash\n(.*?)```", TEXT, re.S) if "drawn" in b]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    outputs = []
    for line in lines:
        program, *arguments = shlex.split(line)
        start = ["-m", "openood_interneg.cli"] if program == "interneg" else []
        outputs.append(run(folder, sys.executable, *start, *arguments))
    assert len(outputs) == 3 and "RatioNeg" in outputs[2] and "letters" in outputs[2]
    assert len((folder / "scores.jsonl").read_text().splitlines()) == 600
    assert (folder / "results" / "scores.csv").is_file()


@pytest.mark.slow
def test_the_python_example_runs(folder):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    told, *lines = run(folder, sys.executable, "-c", code).splitlines()
    assert told.startswith("160 images fit the method, 40 calibrate: gamma")
    assert lines[0].startswith("unknown: -") and "rationeg" in lines[-1]

"""What the README claims of the program is what the program says; its example runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openood_interneg.cli.methods import markdown_table
from openood_interneg.demo import draw, image_rng
from openood_interneg.detectors.registry import list_methods

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def output(*arguments: str, folder: Path) -> str:
    """What Python prints, run in a folder with a cache of its own there."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "INTERNEG_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_table_of_methods_is_generated():
    assert markdown_table() in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_names_every_method_with_its_paper():
    assert len(README.splitlines()) <= 150
    for method in list_methods():
        assert f"`{method.name}` ({method.paper})" in README


def test_links_lead_to_files():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_application_example_runs(tmp_path):
    section = README.split("### A folder of your own", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL).group(1)
    assert len(code.splitlines()) < 15
    # The real corpus takes a while to encode: a few words do for a test.
    words = ROOT / "tests" / "golden" / "mining.json"
    if not words.is_file():
        pytest.skip("no word list at tests/golden")
    quick = code.replace(
        'OODDetector(backbone="miniature")',
        'OODDetector(backbone="miniature", corpus="words.txt", num_negatives=50)',
    )
    assert quick != code
    setup = f"import json; w = json.load(open({str(words)!r}))['nouns']\n"
    setup += "open('words.txt', 'w').write('\\n'.join(w))\n"
    lines = output("-c", setup + quick, folder=tmp_path).splitlines()
    assert len(lines) == 2 and all(re.fullmatch(r"[\w ]+: -?\d+\.\d{3}", line) for line in lines)


@pytest.mark.slow
def test_the_commands_run(tmp_path):
    """As printed, but for the model (the small one) and the corpus (a few words)."""
    words = ROOT / "tests" / "golden" / "mining.json"
    if not words.is_file():
        pytest.skip("no word list at tests/golden")
    (tmp_path / "words.txt").write_text("\n".join(json.loads(words.read_text())["nouns"]))
    for kind in ("star", "heart"):
        (tmp_path / "my_classes" / kind).mkdir(parents=True)
        for i in range(30):
            picture = draw(kind, image_rng(0, "train", i))
            picture.save(tmp_path / "my_classes" / kind / f"{i}.png")
    (tmp_path / "my_photos").mkdir()
    draw("star", image_rng(0, "test", 0)).save(tmp_path / "my_photos" / "a.png")
    small = " --backbone miniature --corpus words.txt --num-negatives 50"
    score, evaluate = re.findall(r"^(interneg (?:score|eval) .*)$", README, re.MULTILINE)
    for command in (score + small, evaluate + small + " --limit 12"):
        said = output("-m", "openood_interneg.cli", *command.split()[1:], folder=tmp_path)
        if " score " in command:
            (line,) = map(json.loads, said.splitlines())
            assert line["prediction"] in ("star", "heart", "unknown")
    assert (tmp_path / "results" / "results.json").is_file() and "RatioNeg" in said

"""Every Python and bash block of the pages runs, here or in the page's own test, or says why not.

A block that does not run has `<!-- not run: why -->` above it; the commands in it are at least ones
that exist, with options that exist. The blocks of a page run one after the other. `make` makes
environments of its own: a block that begins with it runs nowhere.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from openood_interneg.cli.lazy import load_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
# page -> the test that runs its blocks, and how many it runs
ELSEWHERE = {
    "README.md": ("test_readme.py", 4),
    "docs/adding_a_method.md": ("test_docs_adding_a_method.py", 3),
    "docs/applications.md": ("test_docs_applications.py", 1),
    "docs/openood.md": ("test_plugin_docs.py", 4),
    "docs/pytorch_ood.md": ("test_docs_pytorch_ood.py", 1),
    "docs/quickstart.md": ("test_docs_quickstart.py", 3),
    "docs/serving.md": ("test_docs_serving.py", 2),
}
BLOCK = re.compile(r"^(<!-- not run: (.+?) -->\n)?```(python|bash)\n(.*?)^```", re.M | re.S)


class Block(NamedTuple):
    why_not: str
    language: str
    code: str


def blocks(page: str) -> list[Block]:
    return [Block(why, language, code) for _, why, language, code in BLOCK.findall(PAGES[page])]


def runs(page: str) -> list[Block]:
    return [b for b in blocks(page) if not b.why_not and not b.code.startswith("make ")]


HERE = [page for page in PAGES if runs(page) and page not in ELSEWHERE]


@pytest.mark.parametrize("page", ELSEWHERE)
def test_other_tests_run_as_many_blocks_as_the_page_has(page):
    test, count = ELSEWHERE[page]
    assert Path(page).name in (ROOT / "tests" / "docs" / test).read_text(encoding="utf-8")
    assert len(runs(page)) == count, f"does {test} run each block of {page}?"


def test_every_marker_stands_above_a_block_and_no_command_is_without_a_language():
    for page, text in PAGES.items():
        skipped = [block for block in blocks(page) if block.why_not]
        assert len(re.findall("^<!-- not run", text, re.M)) == len(skipped), page
        if page != "CONTRIBUTING.md":  # it shows what `make` does, which the tests are part of
            plain = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
            for language, code in plain:
                commands = re.search(r"^(interneg|python|pip|make) ", code, re.M)
                assert language or not commands, f"{page}: {code}"


def commands(code: str):
    """The calls of `interneg`, as words."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split(" | "):
            words = shlex.split(part, comments=True)
            for start in ("interneg", "openood_interneg.cli"):
                if start in words:
                    yield words[words.index(start) + 1 :]


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.why_not for b in blocks(p))])
def test_commands_that_are_not_run_exist_with_their_options(page):
    for block in blocks(page):
        for script in re.findall(r"^python (\w+/\w+\.py)", block.code, re.M):
            assert (ROOT / script).is_file(), script
        if block.language == "bash" and block.why_not:
            for name, *arguments in commands(block.code):
                command = load_command(name)
                command.make_parser(typer.Context(command)).parse_args(arguments)


def test_an_option_that_does_not_exist_is_found():
    ((name, *arguments),) = commands("interneg eval --bench x \\\n  --no-such-option 3  # why\n")
    command = load_command(name)
    with pytest.raises(Exception, match="No such option: --no-such"):
        command.make_parser(typer.Context(command)).parse_args(arguments)


def draw_folders(kinds):
    """What docs/own_data.md supposes: folders of images, and a run that wrote its scores."""
    from openood_interneg.demo import draw, image_rng

    for number, (folder, kind) in enumerate(kinds):
        Path(folder).mkdir(parents=True)
        for i in range(6):
            draw(kind, image_rng(number, "test", i)).save(Path(folder, f"{i}.png"))


def bash(code: str) -> str:
    start = f'interneg() {{ "{sys.executable}" -m openood_interneg.cli "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-e", "-c", start + code], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-1500:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_the_blocks_run(page, tmp_path, monkeypatch, cache, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERNEG_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if page == "docs/own_data.md":
        classes = [("animals/bird", "bird"), ("animals/fish", "fish"), ("animals/snail", "snail")]
        draw_folders([*classes, ("cars", "car"), ("textures", "gear"), ("wolves", "butterfly")])
        sets = "--ood cars --ood textures --near wolves"
        bash(f"interneg eval --id animals {sets} --backbone miniature --methods mcm --out results")
    names = {"__name__": "page"}
    for block in runs(page):
        if block.language == "python":
            exec(compile(block.code, page, "exec", dont_inherit=True), names)
        else:
            print(bash(block.code))
    out = capsys.readouterr().out
    for told in EXPECTED.get(page, ()):
        assert re.search(told, out), f"{told} in {out}"


# What a page says that its blocks print.
EXPECTED = {
    "docs/index.md": [r"^star: -?\d", r"\nunknown: -?\d"],
    "docs/tutorials/paper_table.md": ["Inter SNT", "no difference \\(run times aside\\)"],
    "docs/tutorials/threshold_and_stream.md": [
        "160 images fit the method, 240 calibrate",
        r"false alarms: \d+ of 200, caught: 1\d\d of 200",
    ],
}

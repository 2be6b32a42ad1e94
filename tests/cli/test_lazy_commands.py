"""Commands are imported when they are used, and the list of commands says what they say."""

import contextlib
import io
import stat
import subprocess
import sys

import pytest

from openood_interneg.cli import app, methods
from openood_interneg.cli.lazy import MODULES, SUMMARIES, load_command
from openood_interneg.detectors.registry import list_methods

HEAVY = ("torch", "numpy", "scipy", "sklearn", "pandas", "open_clip", "matplotlib", "nltk", "PIL")


@pytest.mark.parametrize(
    "statement",
    [
        "import openood_interneg",
        "from openood_interneg.cli import app; app(['--help'], standalone_mode=False)",
        "from openood_interneg.cli import app; app(['--version'], standalone_mode=False)",
        "from openood_interneg.cli import app; app(['methods'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement):
    methods.rows()  # kept from now on
    code = f"import sys\n{statement}\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")


@pytest.mark.parametrize("name", list(MODULES))
def test_the_list_of_commands_says_what_each_command_says(name):
    command = load_command(name)
    assert command.name == name
    first, *others = command.help.split("\n\n")
    assert first == SUMMARIES[name]
    assert not any("\n" in paragraph for paragraph in others)  # the terminal breaks the lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [("interneg e", ["encode", "eval"]), ("interneg de", ["demo"])],
)
def test_the_shell_completes_commands_without_loading_them(words, expected):
    assert completed(words) == expected


def test_the_shell_completes_options_of_commands():
    assert {"--bench", "--beta", "--backbone"} <= set(completed("interneg eval --b"))


def completed(words: str) -> list[str]:
    asked = {"_INTERNEG_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split()) - 1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        for name, value in asked.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["interneg"])
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            app(prog_name="interneg")
    return out.getvalue().split()


def test_the_table_of_methods_is_made_again_where_the_kept_one_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERNEG_CACHE", str(tmp_path / "cache"))
    made = methods.rows()
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert [row[0] for row in made] == [method.name for method in list_methods()]
    (kept,) = tmp_path.rglob("*.json")
    for text in ("", "[1]", '[["mcm"]]', "{}"):
        kept.write_text(text)
        assert methods.rows() == made
    monkeypatch.setattr(methods, "_sources_digest", lambda: "other")
    methods.rows()
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_a_cache_that_cannot_be_written_does_not_stop_the_table(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTERNEG_CACHE", str(tmp_path / "file"))
    assert len(methods.rows()) == len(list_methods())

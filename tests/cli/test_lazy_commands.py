"""Commands are imported when they are used, and the list of commands says what they say."""

import inspect
import subprocess
import sys

import pytest

from openood_interneg.cli.lazy import MODULES, SUMMARIES, load_command

HEAVY = ("torch", "numpy", "scipy", "sklearn", "pandas", "open_clip", "matplotlib", "nltk", "PIL")


@pytest.mark.parametrize(
    "statement",
    [
        "import openood_interneg",
        "from openood_interneg.cli import app; app(['--help'], standalone_mode=False)",
        "from openood_interneg.cli import app; app(['--version'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement):
    code = f"import sys\n{statement}\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")


@pytest.mark.parametrize("name", list(MODULES))
def test_the_list_of_commands_says_what_each_command_says(name):
    command = load_command(name)
    assert command.name == name
    assert inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ") == SUMMARIES[
        name
    ].replace("\n", " ")

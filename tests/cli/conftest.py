"""Commands that run in the process of the test."""

import sys

import pytest

from openood_interneg.cli import main


@pytest.fixture
def commands(monkeypatch, capsys):
    """Folder of a cache -> what runs a command: (exit code, stdout, stderr), the latter in one
    line."""

    def using(cache):
        monkeypatch.setenv("INTERNEG_CACHE", str(cache))

        def run(*args):
            monkeypatch.setattr(sys, "argv", ["interneg", *map(str, args)])
            with pytest.raises(SystemExit) as stop:
                main()
            printed = capsys.readouterr()
            return stop.value.code or 0, printed.out, " ".join(printed.err.split())

        return run

    return using

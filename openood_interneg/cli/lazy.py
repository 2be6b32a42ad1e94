"""Commands whose modules are imported when they are used: `interneg --help` loads no torch."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from openood_interneg.cli.console import guarded

# name -> module of this package; the module's `command` is the function that typer runs.
MODULES = {
    "demo": "demo",
    "encode": "encode",
    "eval": "evaluate",
    "mine": "mine",
    "score": "score",
    "methods": "methods",
    "reproduce": "reproduce",
    "compare": "compare",
    "doctor": "doctor",
}

# What `interneg --help` says of each: the first paragraph of the function's docstring.
SUMMARIES = {
    "demo": "Draw the miniature benchmark and evaluate methods on it, by the code path of `eval`.",
    "encode": "Encode a benchmark's images and texts and rank its corpus, so that `eval` finds "
    "all of it stored.",
    "eval": "Evaluate methods on a benchmark and print a table.",
    "mine": "Mine negative texts (Eqs. 7-10) and show or write them, most deviating first.",
    "score": 'Score images: a class name or "unknown" for each, as one JSON line.',
    "methods": "List the methods: paper, what each needs, what it remembers, presets.",
    "reproduce": "Make the paper's tables and figures, with the published figures beside yours.",
    "compare": "Say what differs between two results: settings, versions, digests, then figures.",
    "doctor": "Report versions, device, OpenOOD, weights, corpora and data sets; exit code 1 if "
    "the benchmark asked for is not complete.",
}

STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}


class LazyCommand(TyperCommand):
    """Stands for a command in the list of commands, and becomes it when it is called."""

    def make_context(self, info_name: str | None, *args: Any, **kwargs: Any) -> Any:
        """The context of the real command, which runs in it."""
        assert self.name is not None
        return load_command(self.name).make_context(info_name, *args, **kwargs)


def load_command(name: str) -> TyperCommand:
    """Imports a command's module and makes its options."""
    module = import_module(f"openood_interneg.cli.{MODULES[name]}")
    app = typer.Typer(**STYLE)
    app.command(name, help=_unwrapped(module.command.__doc__))(guarded(module.command))
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _unwrapped(docstring: str) -> str:
    """Paragraphs without line breaks of their own, so that they fill the terminal's lines."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def add_commands(app: typer.Typer) -> None:
    """Puts every command into the application, without importing it."""
    for name in MODULES:
        app.command(name, cls=LazyCommand, help=SUMMARIES[name])(_never_called)


def _never_called() -> None:
    raise AssertionError("a lazy command runs as the real one")

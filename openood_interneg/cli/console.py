"""What the command prints: messages, tables and progress bars."""

from __future__ import annotations

import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

FILE_WIDTH = 160  # a file or a pipe has no width: tables are not squeezed there


def console(stderr: bool = False) -> Console:
    """A console; results go to stdout, messages and progress to stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else FILE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def fail(message: str, code: int = 1) -> None:
    """Prints one error message and ends the program."""
    console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise SystemExit(code)


def guarded(command: Callable) -> Callable:
    """Expected errors end in one message and exit code 1, Ctrl-C in exit code 130."""

    @functools.wraps(command)
    def wrapper(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            fail("interrupted; finished parts are kept and the next run continues there", code=130)
        except Exception as error:
            from openood_interneg.settings import InternegError

            if not isinstance(error, InternegError):
                raise
            fail(str(error))

    return wrapper


@contextmanager
def ended_tidily() -> Iterator[None]:
    """A request to end (SIGTERM) removes temporary files first, as Ctrl-C does.

    One of several processes ends at once: it may be waiting for another that is gone.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        yield
        return
    process = os.getpid()

    def end(number, frame):
        if os.getpid() != process:  # a worker that inherited this
            os._exit(128 + number)
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(message: str, quiet: bool = False) -> None:
    """A line on stderr about what happens."""
    if not quiet:
        console(stderr=True).print(message, soft_wrap=True)


@contextmanager
def progress_bars(quiet: bool) -> Iterator:
    """Yields progress(what, finished, total); one bar per `what`. Warnings print above them."""
    err = console(stderr=True)

    said = set()

    def warn(message, category, filename, lineno, file=None, line=None):
        if str(message) in said:
            return
        said.add(str(message))
        err.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)

    previous = warnings.showwarning
    warnings.showwarning = warn
    try:
        if quiet:
            yield lambda what, done, total: None
            return
        bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=not err.is_terminal,
        )
        tasks: dict[str, int] = {}
        with bars:

            def advance(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], advance=done)

            yield advance
    finally:
        warnings.showwarning = previous

"""What the command prints: messages, tables and progress bars; and how it ends.

Everything goes through `console`: text is printed as it is, never read as markup, and no
character of a name steers the terminal. What shall be bold is a `rich.text.Text`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from openood_interneg.settings import InternegError, printable

# progress(what, finished, total); no total where nobody knows how many will come
Advance = Callable[[str, int, int | None], None]

FILE_WIDTH = 160  # a file or a pipe has no width: tables are not squeezed there


class PlainConsole(Console):
    """A console for which every string is plain text: no markup, no emoji, no control codes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Also what titles and cells of tables pass through."""
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable(text), **options)


def console(stderr: bool = False) -> Console:
    """A console; results go to stdout, messages and progress to stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else FILE_WIDTH
    return PlainConsole(
        stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


def fail(message: str, code: int = 1) -> NoReturn:
    """Prints one error message and ends the program."""
    text = Text.assemble(("error:", "bold red"), " ", printable(message))
    console(stderr=True).print(text, soft_wrap=True)
    raise SystemExit(code)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Expected errors and those of the system (a full disk, a folder that may not be written)
    end in one message and exit code 1, Ctrl-C in exit code 130."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            done = command(*args, **kwargs)
            sys.stdout.flush()  # here a full disk still ends in a message
            return done
        except KeyboardInterrupt:
            fail("interrupted; finished parts are kept and the next run continues there", code=130)
        except InternegError as error:
            fail(str(error))
        except BrokenPipeError:
            reader_left()
        except Exception as error:
            message = system_error(error)
            if message is None:
                raise
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                fail(message)
            _forget_stdout()
            fail(message)

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

    def end(number: int, frame: FrameType | None) -> None:
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


def reader_left() -> NoReturn:
    """Ends the program without a word: nobody reads its output any more (`| head`)."""
    _forget_stdout()
    raise SystemExit(1)


def _forget_stdout() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what could not be written is left


REMEDIES = {
    errno.ENOSPC: "free some, or choose another place",
    errno.EDQUOT: "free some, or choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EMFILE: "raise the limit (ulimit -n), or use fewer --workers",
}


def system_error(error: BaseException) -> str | None:
    """A message for what the operating system refused; None for any other exception.

    Libraries in Rust (safetensors) hand such errors on as text.
    """
    if isinstance(error, OSError):
        number, why = error.errno, error.strerror or str(error) or type(error).__name__
        where = f": {error.filename}" if error.filename else ""
    elif found := re.search(r"\(os error (\d+)\)", str(error)):
        number, where = int(found.group(1)), ""
        why = os.strerror(number)
    else:
        return None
    remedy = f"; {REMEDIES[number]}" if number in REMEDIES else ""
    return f"{why}{where}{remedy}"


def say(message: str, quiet: bool = False, style: str = "") -> None:
    """A line on stderr about what happens."""
    if not quiet:
        console(stderr=True).print(Text(printable(message), style), soft_wrap=True)


@contextmanager
def warnings_told(err: Console | None = None) -> Iterator[None]:
    """Inside the block each warning is one line on stderr, said once."""
    err = err or console(stderr=True)
    said = set()

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if str(message) in said:
            return
        said.add(str(message))
        text = Text.assemble(("warning:", "yellow"), " ", printable(message))
        err.print(text, soft_wrap=True)

    previous = warnings.showwarning
    warnings.showwarning = warn
    try:
        yield
    finally:
        warnings.showwarning = previous


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Advance]:
    """Yields progress(what, finished, total); one bar per `what`. Warnings print above them."""
    err = console(stderr=True)
    with warnings_told(err):
        if quiet:
            yield lambda what, done, total: None
            return
        bars = Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=not err.is_terminal,
        )
        tasks: dict[str, TaskID] = {}
        with bars:

            def advance(what: str, done: int, total: int | None) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(printable(what, lines=False), total=total)
                bars.update(tasks[what], advance=done)

            yield advance

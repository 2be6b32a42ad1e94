"""The base of every expected error, and how foreign values and errors are quoted in messages."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap


class InternegError(Exception):
    """Base of every error that is for people: its message names the thing and the remedy.

    The command line prints the message and nothing else; any other exception is a bug and shows
    its traceback.
    """


def shown(value: object, limit: int = 80) -> str:
    """`repr` of a value for a message, cut to `limit` characters."""
    try:
        text = repr(value)
    except Exception:  # a whole number of thousands of digits
        text = f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def first_line(error: BaseException, limit: int = 160) -> str:
    """First informative line of another library's error, shortened between words.

    The name of the error's class where its text is empty.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch writes in bold
    lines = (line.strip() for line in plain.splitlines())
    # "Last error:" and the like only announce the line that follows.
    said = next((line for line in lines if line and not line.endswith(":")), "")
    said = said or type(error).__name__
    short = textwrap.shorten(said, limit, placeholder=" ...")
    return short if short != "..." else f"{said[: limit - 3]}..."


class MissingPackageError(InternegError, ImportError):
    """An optional package that is not installed, with the command that installs it."""


def require_package(name: str, install: str, why: str) -> None:
    """Asks for an optional package before any work that would need it at its end.

    Args:
        name: what is imported ("faiss").
        install: what pip installs ("faiss-cpu").
        why: what needs it, the start of the message ("the method knn").

    Raises:
        MissingPackageError: it cannot be imported here.
    """
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # blocked, or put into sys.modules by hand without a spec
        found = sys.modules.get(name) is not None
    if not found:
        raise MissingPackageError(
            f"{why} needs the package {name}, which is not installed: pip install {install}"
        )


_CONTROL = dict.fromkeys((*range(32), *range(127, 160), *range(0x202A, 0x202F),
                         *range(0x2066, 0x206A)))  # fmt: skip
for _code in _CONTROL:
    _CONTROL[_code] = ascii(chr(_code))[1:-1]
_LINES = {code: text for code, text in _CONTROL.items() if chr(code) not in "\n\t"}


def printable(value: object, *, lines: bool = True) -> str:
    """Text in which no character steers the terminal: escape sequences are written out.

    Args:
        lines: whether line ends and tabs may stay as they are.
    """
    return str(value).translate(_LINES if lines else _CONTROL)


class SettingsError(InternegError, ValueError):
    """A setting that is unknown, of the wrong type, out of range or at odds with another."""

"""Missing packages, and other libraries' errors in messages."""

import subprocess
import sys

import pytest

from openood_interneg.settings import (
    InternegError,
    MissingPackageError,
    first_line,
    require_package,
)


def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(MissingPackageError, match="knn needs .* pip install no-such-cpu"):
        require_package("no_such_package", "no-such-cpu", "the method knn")
    assert issubclass(MissingPackageError, InternegError)


def test_a_package_blocked_or_put_in_by_hand(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingPackageError):
        require_package("yaml", "pyyaml", "this")
    monkeypatch.setitem(sys.modules, "made_by_hand", subprocess.__class__("made_by_hand"))
    require_package("made_by_hand", "nothing", "this")


def test_other_libraries_errors_are_cut_between_words():
    text = "\nLast error:\n  \x1b[1mAn\x1b[0m error happened while trying to locate the file\nmore"
    assert first_line(RuntimeError(text)) == "An error happened while trying to locate the file"
    assert first_line(RuntimeError(text), 24) == "An error happened ..."
    assert first_line(RuntimeError("x" * 99), 10) == "xxxxxxx..."
    assert first_line(KeyError()) == "KeyError"

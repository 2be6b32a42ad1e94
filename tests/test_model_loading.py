"""What is asked before a model is loaded, and what is said where it cannot be."""

import subprocess
import sys

import pytest
import torch

from openood_interneg.settings import (
    InternegError,
    MissingPackageError,
    SettingsError,
    first_line,
    require_package,
)
from openood_interneg.vlm.backbones import load_backbone


class TestDevices:
    def test_a_device_that_is_not_there_is_said_so(self):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(SettingsError, match="device 'cuda' cannot be used here .*'cpu'"):
            load_backbone("miniature", device="cuda")

    def test_a_device_of_no_kind_is_said_so(self):
        with pytest.raises(SettingsError, match="device 'gpu' cannot be used here"):
            load_backbone("miniature", device="gpu")

    def test_auto_is_a_device(self):
        assert load_backbone("miniature", device="auto").device.type in ("cpu", "cuda")


class TestPackages:
    def test_a_missing_package_is_named_with_its_command(self):
        with pytest.raises(MissingPackageError, match="knn needs .* pip install no-such-cpu"):
            require_package("no_such_package", "no-such-cpu", "the method knn")
        assert issubclass(MissingPackageError, InternegError)

    def test_a_package_blocked_or_put_in_by_hand(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(MissingPackageError):
            require_package("yaml", "pyyaml", "this")
        monkeypatch.setitem(sys.modules, "made_by_hand", subprocess.__class__("made_by_hand"))
        require_package("made_by_hand", "nothing", "this")


def test_other_libraries_errors_are_cut_between_words():
    text = "\nLast error:\n  An error happened while trying to locate the file\nmore"
    assert first_line(RuntimeError(text)) == "An error happened while trying to locate the file"
    assert first_line(RuntimeError(text), 24) == "An error happened ..."
    assert first_line(RuntimeError("x" * 99), 10) == "xxxxxxx..."
    assert first_line(KeyError()) == "KeyError"

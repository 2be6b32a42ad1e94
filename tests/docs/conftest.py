"""What tests of pages share."""

import os

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder that all processes of a run share: the corpus is encoded once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "docs-cache"

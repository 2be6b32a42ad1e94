"""Fixtures that find data beside the repository; everything runs without them, too."""

import gc
import os
from pathlib import Path

# One thread for each of pytest's processes: small kernels on more threads than cores crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish():
    """What was imported stays: the collector of garbage need not walk it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = Path(os.environ.get("INTERNEG_GOLDEN") or ROOT / "tests" / "golden")
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("INTERNEG_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set INTERNEG_SHARED)")
    return folder


@pytest.fixture(scope="session")
def realbench(shared) -> Path:
    folder = shared / "realbench"
    if not folder.is_dir():
        pytest.skip(f"no realbench at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny(golden):
    """A CLIP with random weights out of the golden vectors."""
    from openood_interneg.vlm.factory import load_backbone

    return load_backbone(golden / "tiny_clip.safetensors")


@pytest.fixture(scope="session")
def miniature():
    """The trained miniature CLIP."""
    from openood_interneg.vlm.factory import load_backbone

    return load_backbone("miniature")


@pytest.fixture
def write(tmp_path):
    """(name, content) -> path of a file with that content in the test's own folder."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file

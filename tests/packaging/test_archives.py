"""What `python -m build` puts into the wheel and into the source archive."""

import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import openood_interneg

pytest.importorskip("build")
pytest.importorskip("setuptools", "77")
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "openood_interneg"
LICENCES = ("LICENSE", "openood_interneg/negatives/data/WORDNET_LICENSE.txt")
FOLDERS = ("tests", "configs", "examples", "benchmarks", "docs", "tools")
NO_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.pyc")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both archives of a copy of this tree, and the copy."""
    tree, out = tmp_path_factory.mktemp("build") / "tree", tmp_path_factory.mktemp("dist")
    tree.mkdir()
    for name in (PACKAGE, *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, ignore=NO_SOURCES)
    for path in [*ROOT.glob("*.*"), ROOT / "LICENSE", ROOT / "Makefile"]:
        if path.is_file():
            shutil.copy(path, tree)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tree, out


@pytest.fixture(scope="module")
def wheel(built):
    """Its path and the names in it."""
    (path,) = built[1].glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return path, set(archive.namelist())


def files(folder, tree):
    return {path.relative_to(tree).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_takes_at_most_10_megabytes(wheel):
    assert wheel[0].stat().st_size <= 10_000_000


def test_the_wheel_holds_the_package_its_configs_and_pages_and_nothing_else(built, wheel):
    tree, names = built[0], wheel[1]
    pages = {path.relative_to(tree).as_posix() for path in (tree / "docs").glob("*.md")}
    expected = files(tree / PACKAGE, tree)
    expected |= {f"{PACKAGE}/{name}" for name in files(tree / "configs", tree) | pages}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_wheel_has_both_licences_and_says_what_it_is(wheel):
    path, names = wheel
    info = f"{PACKAGE}-{openood_interneg.__version__}.dist-info"
    assert {f"{info}/licenses/{licence}" for licence in LICENCES} <= names
    with zipfile.ZipFile(path) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Version"] == openood_interneg.__version__
    assert metadata["License-Expression"] == "MIT AND LicenseRef-WordNet-3.0"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_source_archive_holds_whatever_its_tests_read(built):
    tree, out = built
    (path,) = out.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in members}
    expected = set(LICENCES) | {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    expected |= {"Makefile", "pyproject.toml", "setup.py", "MANIFEST.in"}
    for folder in (PACKAGE, *FOLDERS):
        expected |= files(tree / folder, tree)
    assert expected - names == set()
    assert [name for name in names if "__pycache__" in name or name.startswith(".venv")] == []


def test_an_index_can_show_the_description(built):
    pytest.importorskip("twine")
    archives = [str(path) for path in built[1].iterdir()]
    command = [sys.executable, "-m", "twine", "check", "--strict", *archives]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

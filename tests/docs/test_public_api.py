"""What a user imports: documented names exist, cost nothing to import, and have real types."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import openood_interneg

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PUBLIC = {"openood_interneg", "openood_interneg.demo", "openood_interneg.plugin"}

RIGHT = """
from openood_interneg import (
    Backbone, Detector, Evaluation, InterNegDetector, Method, Scores, Settings, TextSpace, demo,
    config_root, get_method, list_methods, load_backbone, load_benchmark, register,
)

backbone: Backbone = load_backbone("miniature", device="cpu", precision="bf16")
run = Evaluation(load_benchmark("miniature", "data"), backbone)
method: Method = get_method("mcm")
names: list[str] = [m.name for m in list_methods()]
settings: Settings = method.make_settings({"tau": 1.0})
root: str = config_root()
register()
detector = InterNegDetector(backbone="miniature")


def score(detector: Detector, space: TextSpace) -> Scores:
    return detector.step(space.labels)
"""

WRONG = """
from openood_interneg import nothing_of_this_name
from openood_interneg import get_method, load_backbone

load_backbone("miniature", device=3)
load_backbone("miniature", precison="fp32")
get_method()
number: int = load_backbone("miniature").encode_text(["a"])
"""


def test_every_public_name_is_there():
    for name in openood_interneg.__all__:
        assert getattr(openood_interneg, name) is not None, name
    assert set(openood_interneg.__all__) == {*openood_interneg._HOME, "demo"}
    assert set(dir(openood_interneg)) >= set(openood_interneg.__all__)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = openood_interneg.nothing_of_this_name


def test_importing_the_package_imports_no_library():
    code = (
        "import sys, openood_interneg; print([m for m in ('torch', 'PIL', 'numpy', 'openood')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_imports_public_names_only(page):
    text = page.read_text(encoding="utf-8")
    imports = re.findall(
        r"^ *from (openood_interneg[\w.]*) import (\([^)]*\)|[^\n]+)", text, flags=re.MULTILINE
    )
    for module, names in imports:
        assert module in PUBLIC, f"{page.name} imports from {module}"
        for name in filter(None, re.split(r"[\s,()]+", names)):
            assert_public(module, name, page)
    for module in re.findall(r"^ *import (openood_interneg[\w.]*)", text, flags=re.MULTILINE):
        assert module in PUBLIC, f"{page.name} imports {module}"
    for path in re.findall(r"\b(openood_interneg(?:\.\w+)+)\(", text):
        module, _, name = path.rpartition(".")
        assert module in PUBLIC, f"{page.name} uses {path}"
        assert_public(module, name, page)


def assert_public(module: str, name: str, page: Path) -> None:
    home = importlib.import_module(module)
    # Postprocessors have their names from the methods.
    listed = name in home.__all__ or (module.endswith(".plugin") and name.endswith("Postprocessor"))
    assert listed, f"{page.name} imports {name} from {module}"


@pytest.mark.slow
def test_a_type_checker_sees_real_types(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports"),
            *("--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"),
            *(str(tmp_path / "right.py"), str(tmp_path / "wrong.py")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    errors = re.findall(r"(\w+)\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert errors == [
        ("wrong", "2", "attr-defined"),
        ("wrong", "5", "arg-type"),
        ("wrong", "6", "call-arg"),
        ("wrong", "7", "call-arg"),
        ("wrong", "8", "assignment"),
    ], done.stdout + done.stderr

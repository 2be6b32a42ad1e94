"""Pages that messages name are shipped: no string of the package sends a user to a bare docs/."""

import ast
from pathlib import Path

import pytest

import openood_interneg
from openood_interneg import load_benchmark
from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.settings import docs_page

PACKAGE = Path(openood_interneg.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "docs_page":
            yield node.args[0].value


def spoken(tree):
    """The string constants but docstrings."""
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in silent:
            yield str(node.value)


def test_every_page_that_is_named_exists():
    named = [name for path in SOURCES for name in calls(ast.parse(path.read_text("utf-8")))]
    assert "own_data.md" in named
    assert [name for name in named if not docs_page(name).is_file()] == []


@pytest.mark.slow
def test_no_message_names_a_page_that_an_installed_package_has_elsewhere():
    bare = [
        (path.name, text)
        for path in SOURCES
        for text in spoken(ast.parse(path.read_text("utf-8")))
        if "docs/" in text and ".md" in text
    ]
    assert bare == []


def test_the_message_gives_the_path():
    with pytest.raises(BenchmarkError) as error:
        load_benchmark("no-such-benchmark")
    assert str(docs_page("own_data.md")) in str(error.value)

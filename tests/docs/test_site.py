"""The site of the docs: complete, near, built without a warning, and it loads nothing."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import openood_interneg
from openood_interneg import plugin

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "site_hooks.py")))


def pages(nav, depth=0):
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(target, list):
            yield from pages(target, depth + 1)
        else:
            yield target, depth


def test_every_page_is_in_the_navigation_within_two_clicks():
    nav = dict(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert set(nav) == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(nav.values()) == {1}  # a tab, then the page


def test_every_public_name_is_on_an_api_page():
    text = "".join(path.read_text("utf-8") for path in sorted(DOCS.glob("api/*.md")))
    told = set(re.findall(r"^::: (\S+)$", text, re.M))
    names = [name for name in openood_interneg.__all__ if name != "demo"]
    public = [(getattr(openood_interneg, name).__module__, name) for name in names]
    # not imported: some of these need OpenOOD
    public += [(f"{plugin.__name__}.{plugin._HOME[name]}", name) for name in plugin.__all__]
    for module, name in public:
        assert {module, f"{module}.{name}"} & told, f"{name} of {module}"


def test_links_out_of_the_docs_become_their_text(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/a.md"))
    shown = hooks.on_page_markdown(
        "[`s.py`](../../examples/s.py) [own_data.md](../own_data.md#x) [b](b.md) ![p](../p.png)",
        page=page,
    )
    assert shown == "`s.py` [own data](../own_data.md#x) [b](b.md) ![p](../p.png)"


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.html", '<script async src="https://cdn.x/y.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.x/y.css">'),
        ("a.html", '<img alt="b" src=https://x/y.png>'),
        ("a.css", "@import 'https://x/y.css';"),
        ("a.css", "a{background:url(http://x/y.png)}"),
    ],
)
def test_what_comes_from_elsewhere_is_found(hooks, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert len(hooks.loaded_from_elsewhere(tmp_path)) == 1


def test_links_for_readers_are_no_loads(hooks, tmp_path):
    text = '<a href="https://x/">y</a><link rel="canonical" href="https://x/"><img src="a.png">'
    (tmp_path / "a.html").write_text(text)
    assert hooks.loaded_from_elsewhere(tmp_path) == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_opens_from_its_folder(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    application = (tmp_path / "site" / "api" / "application.html").read_text("utf-8")
    assert 'id="openood_interneg.application.detector.OODDetector.predict"' in application
    index = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert 'href="quickstart.html"' in index and 'src="javascripts/iframe-worker.js"' in index
    assert "proxies" in (tmp_path / "site" / "search" / "search_index.js").read_text("utf-8")

"""What a package index shows: the README, with no link that leads nowhere there."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture
def described(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)

    def make(repository):
        monkeypatch.setenv("INTERNEG_REPOSITORY", repository)
        return runpy.run_path(str(ROOT / "setup.py"))["long_description"]()

    return make


def test_links_lead_to_the_repository_where_it_is_known(described):
    text = described("https://example.org/us/it/")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(LINK.findall(text)) == len(LINK.findall(readme)) > 20
    assert all(target.startswith("https://") for target in LINK.findall(text))
    assert "](https://example.org/us/it/raw/main/docs/images/how_it_works.png)" in text
    assert "[applications](https://example.org/us/it/blob/main/docs/applications.md)" in text


def test_without_a_repository_the_words_stay(described):
    text = described("")
    assert all(target.startswith("https://") for target in LINK.findall(text))
    assert "images/" not in text and "| applications |" in text

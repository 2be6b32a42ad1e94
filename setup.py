"""What pyproject.toml cannot say: configs/ and the pages of docs/ are installed in the package.

A package index shows the README alone, so links to other files of the repository lead there:
set INTERNEG_REPOSITORY (https://host/owner/name) for a release. Without it their text stays.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup


def long_description() -> str:
    """The README with its relative links made absolute, or taken out."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    place = os.environ.get("INTERNEG_REPOSITORY", "").rstrip("/")

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if re.match(r"https?:|#", target):
            return found[0]
        if not place:
            return "" if picture else words
        return f"{picture}[{words}]({place}/{'raw' if picture else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, text)


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["openood_interneg", "openood_interneg.*"]),
        "openood_interneg.configs",
        "openood_interneg.docs",
    ],
    package_dir={"openood_interneg.configs": "configs", "openood_interneg.docs": "docs"},
    package_data={
        "openood_interneg": [
            "py.typed",
            "**/*.txt",
            "**/*.json",
            "**/*.safetensors",
            "**/*.csv.gz",
            "**/*.html",
        ],
        "openood_interneg.configs": ["**/*.yml"],
        "openood_interneg.docs": ["*.md"],
    },
    include_package_data=False,
)

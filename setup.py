"""What pyproject.toml cannot say: configs/ and the pages of docs/ are installed in the package."""

from setuptools import find_packages, setup

setup(
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

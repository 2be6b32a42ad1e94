"""Packaging: metadata, dependencies, the `interneg` command, data files inside the wheel."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="openood-interneg",
    version="0.1.0",
    description="Zero-shot out-of-distribution detection with CLIP: InterNeg and its relatives, "
    "on OpenOOD's benchmarks",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # The YAML files live at the top for people to read and are installed inside the package.
    packages=[
        *find_packages(include=["openood_interneg", "openood_interneg.*"]),
        "openood_interneg.configs",
    ],
    package_dir={"openood_interneg.configs": "configs"},
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
    },
    include_package_data=False,
    install_requires=[
        # Before 2.6 a crafted file runs code under weights_only=True (CVE-2025-32434).
        "torch>=2.6",
        "torchvision>=0.21",
        "open_clip_torch>=2.30.0",
        "nltk>=3.9.1",
        "numpy>=1.26.4",
        "scipy>=1.11.4",
        "scikit-learn>=1.4.2",
        "safetensors>=0.4.3",
        "filelock>=3.13.1",
        "pyyaml>=6.0.1",
        "pillow>=10.3.0",
        "tqdm>=4.66.5",
        "pandas>=2.2.2",
        "typer>=0.20",
        "rich>=13.7.1",
        "matplotlib>=3.8.4",
        "jinja2>=3.1.4",
    ],
    extras_require={"test": ["pytest>=8.2", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6"]},
    entry_points={"console_scripts": ["interneg=openood_interneg.cli:main"]},
)

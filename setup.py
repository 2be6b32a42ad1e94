"""What pyproject.toml cannot say: the YAML files of configs/ are installed inside the package."""

from setuptools import find_packages, setup

setup(
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
)

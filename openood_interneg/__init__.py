"""InterNeg: zero-shot out-of-distribution detection with CLIP, as a plugin for OpenOOD.

What a user imports; names are resolved when they are used, so that importing the package costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_HOME = {
    "InterNegDetector": "openood_interneg.application.detector",
    "config_root": "openood_interneg.plugin.register",
    "load_backbone": "openood_interneg.vlm.factory",
    "load_benchmark": "openood_interneg.data.benchmark",
    "load_openood": "openood_interneg.plugin.openood",
    "register": "openood_interneg.plugin.register",
    "register_benchmark": "openood_interneg.plugin.register",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

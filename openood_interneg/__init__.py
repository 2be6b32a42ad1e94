"""InterNeg: zero-shot out-of-distribution detection with CLIP, as a plugin for OpenOOD.

Everything that a user imports. Names are resolved when they are used, so that importing the
package costs nothing; a type checker sees the real types.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openood_interneg import demo
    from openood_interneg.application.detector import InterNegDetector, OODDetector
    from openood_interneg.application.pytorch_ood import as_pytorch_ood
    from openood_interneg.data.benchmark import Benchmark
    from openood_interneg.data.benchmark_folders import benchmark_from_folders
    from openood_interneg.data.benchmark_yaml import load_benchmark
    from openood_interneg.detectors.base import Detector, DetectorError, Scores
    from openood_interneg.detectors.method import Method
    from openood_interneg.detectors.registry import get_method, list_methods, register_method
    from openood_interneg.evaluation.evaluate import Evaluation
    from openood_interneg.evaluation.image_scores import image_frame
    from openood_interneg.evaluation.results import frame
    from openood_interneg.negatives.text_space import TextSource, TextSpace
    from openood_interneg.plugin.openood import load_openood
    from openood_interneg.plugin.register import config_root, register, register_benchmark
    from openood_interneg.settings import (
        IdImageSettings,
        InternegError,
        InterNegSettings,
        LabelSettings,
        MethodSettings,
        NegativeSettings,
        Settings,
        setting,
    )
    from openood_interneg.vlm.backbones import Backbone
    from openood_interneg.vlm.factory import load_backbone

__version__ = "0.2.0.dev0"

__all__ = [
    "Backbone",
    "Benchmark",
    "Detector",
    "DetectorError",
    "Evaluation",
    "IdImageSettings",
    "InterNegDetector",
    "InterNegSettings",
    "InternegError",
    "LabelSettings",
    "Method",
    "MethodSettings",
    "NegativeSettings",
    "OODDetector",
    "Scores",
    "Settings",
    "TextSource",
    "TextSpace",
    "as_pytorch_ood",
    "benchmark_from_folders",
    "config_root",
    "demo",
    "frame",
    "get_method",
    "image_frame",
    "list_methods",
    "load_backbone",
    "load_benchmark",
    "load_openood",
    "register",
    "register_benchmark",
    "register_method",
    "setting",
]

# The module of every name above but `demo`, which is a module itself.
_MODULES = {
    "application.detector": ("InterNegDetector", "OODDetector"),
    "application.pytorch_ood": ("as_pytorch_ood",),
    "data.benchmark": ("Benchmark",),
    "data.benchmark_folders": ("benchmark_from_folders",),
    "data.benchmark_yaml": ("load_benchmark",),
    "detectors.base": ("Detector", "DetectorError", "Scores"),
    "detectors.method": ("Method",),
    "detectors.registry": ("get_method", "list_methods", "register_method"),
    "evaluation.evaluate": ("Evaluation",),
    "evaluation.image_scores": ("image_frame",),
    "evaluation.results": ("frame",),
    "negatives.text_space": ("TextSource", "TextSpace"),
    "plugin.openood": ("load_openood",),
    "plugin.register": ("config_root", "register", "register_benchmark"),
    "settings": (
        *("IdImageSettings", "InterNegSettings", "InternegError", "LabelSettings"),
        *("MethodSettings", "Settings", "NegativeSettings", "setting"),
    ),
    "vlm.backbones": ("Backbone",),
    "vlm.factory": ("load_backbone",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker this would make every unknown name an Any

    def __getattr__(name: str) -> object:
        if name == "demo":
            return import_module(f"{__name__}.demo")
        if name in _HOME:
            return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

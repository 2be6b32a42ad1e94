"""The plugin for OpenOOD: network, postprocessors, evaluators, and their registration by name.

Importing this package imports nothing; names are resolved when they are used. A type checker sees
the real types, except of the classes of single methods (`InterNegPostprocessor`, ...), which are
made from the table of methods. Only `evaluator`, `main_evaluator`, `baselines`, `register` and
`main` need OpenOOD.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openood_interneg.plugin.baseline_table import BASELINES, BaselineError
    from openood_interneg.plugin.baselines import run_baseline
    from openood_interneg.plugin.classes import ClassesError
    from openood_interneg.plugin.detector_postprocessor import DetectorPostprocessor
    from openood_interneg.plugin.device import redirect_cuda
    from openood_interneg.plugin.evaluator import Evaluator
    from openood_interneg.plugin.main_evaluator import MixedOODEvaluator
    from openood_interneg.plugin.network import ClipHead, ClipZeroShot, name_class_names
    from openood_interneg.plugin.openood import (
        OpenOODError,
        OpenOODMissing,
        load_openood,
        stand_ins,
    )
    from openood_interneg.plugin.postprocessors import postprocessor_class
    from openood_interneg.plugin.register import config_root, register_benchmark
    from openood_interneg.plugin.streams import evaluate

__all__ = [
    "BASELINES",
    "BaselineError",
    "ClassesError",
    "ClipHead",
    "ClipZeroShot",
    "DetectorPostprocessor",
    "Evaluator",
    "MixedOODEvaluator",
    "OpenOODError",
    "OpenOODMissing",
    "config_root",
    "evaluate",
    "load_openood",
    "name_class_names",
    "postprocessor_class",
    "redirect_cuda",
    "register_benchmark",
    "run_baseline",
    "stand_ins",
]

# The module of every name above.
_MODULES = {
    "baseline_table": ("BASELINES", "BaselineError"),
    "baselines": ("run_baseline",),
    "classes": ("ClassesError",),
    "detector_postprocessor": ("DetectorPostprocessor",),
    "device": ("redirect_cuda",),
    "evaluator": ("Evaluator",),
    "main_evaluator": ("MixedOODEvaluator",),
    "network": ("ClipHead", "ClipZeroShot", "name_class_names"),
    "openood": ("OpenOODError", "OpenOODMissing", "load_openood", "stand_ins"),
    "postprocessors": ("postprocessor_class",),
    "register": ("config_root", "register_benchmark"),
    "streams": ("evaluate",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name.endswith("Postprocessor"):
        return getattr(import_module(f"{__name__}.postprocessors"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

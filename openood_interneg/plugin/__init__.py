"""The plugin for OpenOOD: network, postprocessors, evaluators, and their registration by name.

Importing this package imports nothing; names are resolved when they are used. Only `evaluator`,
`main_evaluator`, `baselines`, `register` and `main` need OpenOOD.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "BASELINES": "baseline_table",
    "BaselineError": "baseline_table",
    "ClassesError": "classes",
    "ClipHead": "network",
    "ClipZeroShot": "network",
    "DetectorPostprocessor": "detector_postprocessor",
    "Evaluator": "evaluator",
    "MixedOODEvaluator": "main_evaluator",
    "OpenOODError": "openood",
    "OpenOODMissing": "openood",
    "config_root": "register",
    "evaluate": "streams",
    "redirect_cuda": "device",
    "load_openood": "openood",
    "name_class_names": "network",
    "postprocessor_class": "postprocessors",
    "register_benchmark": "register",
    "run_baseline": "baselines",
    "stand_ins": "openood",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name.endswith("Postprocessor"):
        return getattr(import_module(f"{__name__}.postprocessors"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

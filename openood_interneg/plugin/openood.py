"""Getting OpenOOD to import: explicit stand-ins for third-party modules that our path never uses.

OpenOOD imports all its methods, trainers and attacks at once, and with them packages that have no
wheel for current Pythons (faiss-gpu), do not build (libmr) or break with NumPy 2 (imgaug). Where
such a package is missing or broken, OpenOOD's own import statements, and nobody else's, receive a
stand-in; touching it later raises an error that names the package.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any

from openood_interneg.settings import InternegError

INSTALL = 'pip install --no-deps "git+https://github.com/Jingkang50/OpenOOD"'

# Module -> what pip calls it.
OPTIONAL = {
    "cv2": "opencv-python-headless",
    "diffdist": "diffdist",
    "faiss": "faiss-cpu",
    "foolbox": "foolbox",
    "gdown": "gdown",
    "imgaug": "imgaug",
    "json5": "json5",
    "libmr": "libmr",
    "statsmodels": "statsmodels",
    "timm": "timm",
}

# Importing these imports everything that names are looked up in.
_ROOTS = ("openood.evaluation_api", "openood.pipelines", "openood.networks", "openood.datasets")


class OpenOODError(InternegError, ImportError):
    """OpenOOD is installed, but cannot be imported."""


class OpenOODMissing(OpenOODError):
    """OpenOOD is not installed."""


class MissingPackage(InternegError, ImportError):
    """A package that OpenOOD needs for this, and that is missing or broken here."""


class StandIn(ModuleType):
    """Takes the place of a module, or of something imported from it, until it is touched."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, f"Stand-in for {name}: {reason}")
        self.__dict__["_reason"] = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _loading.is_set():  # `from faiss import x`, at the head of a file of OpenOOD's
            return StandIn(f"{self.__name__}.{name}", self.__dict__["_reason"])
        raise self._error(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error(self.__name__)

    def _error(self, wanted: str) -> MissingPackage:
        package = self.__name__.partition(".")[0]
        return MissingPackage(
            f"OpenOOD wants {wanted}, but the package '{package}' is not usable here "
            f"({self.__dict__['_reason']}); pip install {OPTIONAL.get(package, package)}, then "
            "start again"
        )


_lock = threading.RLock()
_loading = threading.Event()
_stood_in: dict[str, str] = {}


def is_installed() -> bool:
    """Whether there is an OpenOOD to import."""
    if sys.modules.get("openood") is not None:
        return True
    return importlib.util.find_spec("openood") is not None


def load_openood() -> Mapping[str, str]:
    """Imports OpenOOD; may be called any number of times.

    A working module is never replaced, and a stand-in is seen by OpenOOD's modules alone:
    `import faiss` anywhere else behaves as if this function did not exist.

    Returns:
        The stand-ins: name of the missing module -> reason.

    Raises:
        OpenOODMissing: OpenOOD is not installed. OpenOODError: its import fails.
    """
    if not is_installed():
        raise OpenOODMissing(
            f"OpenOOD is not installed. It is on no package index; {INSTALL}\n"
            "`interneg eval` and the detectors work without it"
        )
    with _lock, _stand_ins_for_openood():
        for name in _ROOTS:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise OpenOODError(
                    f"importing {name} fails: {error}; pip install {error.name}, or install "
                    f"OpenOOD anew: {INSTALL}"
                ) from error
            except ImportError as error:
                raise OpenOODError(f"importing {name} fails: {error}") from error
    return MappingProxyType(_stood_in)


def stand_ins() -> Mapping[str, str]:
    """The stand-ins so far: name of the missing module -> reason."""
    return MappingProxyType(_stood_in)


def config_value(block: Any, name: str) -> Any:
    """A value of OpenOOD's Config, a mapping or a namespace; None where there is none."""
    if isinstance(block, Mapping):
        return block[name] if name in block else None  # noqa: SIM401 - Config.get ignores dots
    return getattr(block, name, None)


@contextmanager
def _stand_ins_for_openood() -> Iterator[None]:
    """Inside the block, `import` statements in OpenOOD's own modules may receive stand-ins."""
    genuine = builtins.__import__

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        package = name.partition(".")[0]
        importer = (globals or {}).get("__name__", "")
        ours = level == 0 and package in OPTIONAL and importer.partition(".")[0] == "openood"
        if not ours:
            return genuine(name, globals, locals, fromlist, level)
        try:
            module = genuine(name, globals, locals, fromlist, level)
            for wanted in fromlist or ():
                getattr(module, wanted)
            return module
        except Exception as error:  # imgaug dies of an AttributeError under NumPy 2
            working = sys.modules.get(package)
            if working is not None and not fromlist:
                return working  # a submodule is broken, the package is not
            lines = str(error).strip().splitlines()
            _stood_in[package] = f"{type(error).__name__}: {lines[0] if lines else ''}"
            return StandIn(name if fromlist else package, _stood_in[package])

    builtins.__import__ = import_
    _loading.set()
    try:
        yield
    finally:
        _loading.clear()
        if builtins.__import__ is import_:
            builtins.__import__ = genuine

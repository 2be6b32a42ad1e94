"""Packages of others whose `__init__` waits until something of it is asked for.

`import open_clip` runs the inits of timm and torchvision, which bring every model they have and
torch's compiler: ten times the time of the few modules that a CLIP is made of. In a process of
the `interneg` command those packages are registered without running their inits; their modules
are imported as usual, and the first name asked of a package itself runs its init as it would
have run. A library does not do this to its user's process: nothing but the command calls it.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = (
    *("torchvision", "torchvision.ops", "torchvision.models", "timm", "open_clip"),
    *("scipy", "scipy.ndimage"),
)

_LOCK = threading.RLock()  # another thread waits for an init that runs; its own thread does not


class _Waiting(ModuleType):
    """A package that is found, and not run; it becomes an ordinary module when it is."""

    def __getattr__(self, name: str) -> Any:
        # Inspection of all modules asks each for names such as __warningregistry__.
        special = name.startswith("__") and name not in ("__version__", "__all__")
        with _LOCK:
            if special or self.__dict__.get("_runs"):
                raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
            if type(self) is _Waiting:
                self._runs = True
                spec = self.__spec__
                assert spec is not None and spec.loader is not None
                try:
                    spec.loader.exec_module(self)
                finally:
                    del self._runs
                self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(self, name)


def defer_inits(names: tuple[str, ...] = PACKAGES) -> None:
    """Registers packages without running their inits; those imported already stay as they are.

    Args:
        names: of packages, a parent before its children; one that is not installed is left out.
    """
    for name in names:
        parent, _, child = name.rpartition(".")
        if name in sys.modules or (parent and type(sys.modules.get(parent)) is not _Waiting):
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            continue
        module = _waiting(spec)
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], child, module)


def _waiting(spec: ModuleSpec) -> _Waiting:
    module = _Waiting(spec.name)
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__path__ = list(spec.submodule_search_locations or [])
    module.__file__, module.__package__ = spec.origin, spec.name
    return module

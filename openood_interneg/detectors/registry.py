"""The table of methods: what can be selected by name.

Adding a method: one file in this folder with its detector, its settings and `METHOD`, and one YAML
in configs/postprocessors. The table finds the file.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings

from openood_interneg import detectors
from openood_interneg.detectors.method import TABLE, Method, methods_with
from openood_interneg.settings import SettingsError

__all__ = ["TABLE", "get_method", "list_methods", "methods_with", "register_method"]

# The order of the table; methods that are not named here come after, by the names of their files.
_ORDER = (
    *("mcm", "energy", "maxlogit", "mahalanobis", "clip_knn", "neglabel", "csp", "eoe"),
    *("clipscope", "cover", "adaneg", "tanl", "locoop", "lapt", "negprompt", "local_prompt"),
    *("supreme", "lsn", "id_like", "clipn", "zoc", "ants", "interneg_negatives_only", "interneg"),
    *("tins", "rationeg"),
)


def register_method(method: Method) -> Method:
    """Adds a row; an existing name is replaced with a warning."""
    if method.name in TABLE:
        warnings.warn(f"method '{method.name}' is replaced in the table", stacklevel=2)
    TABLE[method.name] = method
    return method


def get_method(name: str) -> Method:
    """The row of a name.

    Raises:
        SettingsError: unknown name; the nearest known ones are named.
    """
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise SettingsError(f"unknown method '{name}'; {hint}known: {', '.join(TABLE)}")
    return TABLE[name]


def list_methods() -> list[Method]:
    """All rows, in the order of the table."""
    return list(TABLE.values())


def _shipped() -> list[Method]:
    """The `METHOD` of every file in this folder that has one, in the order of the table."""
    folder = detectors
    names = [
        f"{folder.__name__}.{module.name}"
        for module in pkgutil.iter_modules(folder.__path__)
        if f"{folder.__name__}.{module.name}" != __name__
    ]
    rows = [getattr(importlib.import_module(name), "METHOD", None) for name in names]
    place = {name: i for i, name in enumerate(_ORDER)}
    methods = [row for row in rows if isinstance(row, Method)]
    return sorted(methods, key=lambda method: place.get(method.name, len(place)))


for _method in _shipped():
    register_method(_method)

"""The table of methods: what can be selected by name.

Adding a method: one file in this folder with its detector, settings and `METHOD`; one YAML in
configs/postprocessors; one line in `_ROWS` below.
"""

from __future__ import annotations

import difflib
import warnings

from openood_interneg.detectors import (
    adaneg,
    captions,
    clipscope,
    cover,
    csp,
    energy,
    eoe,
    interneg,
    knn,
    mahalanobis,
    maxlogit,
    mcm,
    neglabel,
    tanl,
    trained,
)
from openood_interneg.detectors.method import Method
from openood_interneg.settings import SettingsError

_ROWS = (
    mcm.METHOD,
    energy.METHOD,
    maxlogit.METHOD,
    mahalanobis.METHOD,
    knn.METHOD,
    neglabel.METHOD,
    csp.METHOD,
    eoe.METHOD,
    clipscope.METHOD,
    cover.METHOD,
    adaneg.METHOD,
    tanl.METHOD,
    *trained.METHODS,
    *captions.METHODS,
    interneg.NEGATIVES_ONLY,
    interneg.METHOD,
)

_METHODS: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Adds a row; an existing name is replaced with a warning."""
    if method.name in _METHODS:
        warnings.warn(f"method '{method.name}' is replaced in the table", stacklevel=2)
    _METHODS[method.name] = method
    return method


def get_method(name: str) -> Method:
    """The row of a name.

    Raises:
        SettingsError: unknown name; the nearest known ones are named.
    """
    if name not in _METHODS:
        near = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise SettingsError(f"unknown method '{name}'; {hint}known: {', '.join(_METHODS)}")
    return _METHODS[name]


def list_methods() -> list[Method]:
    """All rows, in the order of the table."""
    return list(_METHODS.values())


def methods_with(setting: str) -> list[str]:
    """Names of the methods that have a setting, in the order of the table."""
    return [method.name for method in list_methods() if setting in method.setting_names]


for _row in _ROWS:
    register_method(_row)

"""Putting our names into OpenOOD's tables and into the functions that look names up.

OpenOOD keeps its names in dictionaries: some of them in modules, where entries can be added, some
inside functions, which other modules have imported by name. Those functions are wrapped, and every
module that holds the original is given the wrapper. OpenOOD's own names stay as they are.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any

from openood_interneg.plugin.network import known_class_names, own_preprocessing
from openood_interneg.plugin.postprocessors import DetectorPostprocessor
from openood_interneg.settings import SettingsError, shown


class RegistrationWarning(UserWarning):
    """A name of ours that OpenOOD, or another plugin, uses for something else."""


def insert(table: dict[str, Any], name: str, value: Any, where: str) -> None:
    """Adds an entry to one of OpenOOD's tables; another's entry stays, with a warning.

    Args:
        table: of OpenOOD's.
        name: of the entry.
        value: the entry.
        where: what a warning calls the table; empty for no warning.
    """
    present = table.get(name)
    if present is None:
        table[name] = value
    elif where and not (isinstance(present, type) and issubclass(present, DetectorPostprocessor)):
        _foreign(name, where)


def _foreign(name: str, where: str) -> None:
    warnings.warn(
        f"'{name}' means something else in {where} already and is left alone; ours is reached "
        f"through openood_interneg.plugin",
        RegistrationWarning,
        stacklevel=4,
    )


def wrap_factory(
    module: Any,
    attribute: str,
    name_of: Callable[[Any], str],
    ours: Mapping[str, Callable[..., Any]],
) -> None:
    """Lets a factory `attribute(config, ...)` build what we have a name for."""

    def wrapper_of(original: Any) -> Any:
        known = _strings(getattr(original, "__code__", None))
        table = dict(ours)
        for name in ours:
            if name in known:
                _foreign(name, f"{module.__name__}.{attribute}")
                del table[name]

        def factory(config: Any, *args: Any, **kwargs: Any) -> Any:
            name = name_of(config)
            if name in table:
                return table[name](config, *args)
            if known and name not in known:
                check_name(attribute.removeprefix("get_"), name, {*known, *table})
            return original(config, *args, **kwargs)

        marked: Any = factory
        marked._interneg_known = {*known, *table}
        return marked

    replace_function(module, attribute, wrapper_of)


def replace_function(module: Any, attribute: str, wrapper_of: Callable[[Any], Any]) -> None:
    """Puts a wrapper in the place of a function, in every module that has imported it by name.

    A second call finds the wrapper by its mark; it only serves modules that have imported the
    original in the meantime.
    """
    present = getattr(module, attribute)
    original = getattr(present, "_interneg_original", present)
    wrapper: Any = present
    if present is original:
        wrapper = functools.wraps(original)(wrapper_of(original))
        wrapper._interneg_original = original
    for holder in list(sys.modules.values()):
        if getattr(holder, "__dict__", {}).get(attribute) is original:
            setattr(holder, attribute, wrapper)


def _strings(code: CodeType | None) -> set[str]:
    """String constants of a function: the names in the dictionary or if-chain inside it."""
    found: set[str] = set()
    pending: list[Any] = list(code.co_consts) if code is not None else []
    while pending:
        constant = pending.pop()
        if isinstance(constant, str):
            found.add(constant)
        elif isinstance(constant, (tuple, frozenset)):
            pending.extend(constant)
    return found


def check_name(what: str, name: Any, known: Iterable[str]) -> None:
    """Refuses a name that nothing is registered under, with the nearest that is one.

    Raises:
        SettingsError: the name is unknown.
    """
    known = sorted(known)
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    raise SettingsError(f"there is no {what} {shown(name)}; {hint}")


def bring_preprocessing(evaluator: Any) -> None:
    """A CLIP brings its own preprocessing to OpenOOD's Evaluator, unless another one is given.

    OpenOOD's default goes by the benchmark: for ImageNet it would normalise a CLIP's images with
    the mean and deviation that ResNets are trained with.
    """
    original = evaluator.__init__
    if hasattr(original, "_interneg_original"):
        return
    parameters = inspect.signature(original)
    if "preprocessor" not in parameters.parameters:
        return

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(self, *args, **kwargs)
        if given.arguments.get("preprocessor") is None:
            names = known_class_names(given.arguments["id_name"])
            given.arguments["preprocessor"] = own_preprocessing(given.arguments["net"], names)
        original(*given.args, **given.kwargs)

    marked: Any = __init__
    marked._interneg_original = original
    evaluator.__init__ = marked

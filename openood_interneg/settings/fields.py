"""How settings are declared, checked and read from mappings, before any work starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from openood_interneg.settings.errors import SettingsError, shown

LARGEST = 2**63 - 1  # of whole numbers: what random generators and files hold; seeds go up to it
MOST = 1_000_000  # of whole numbers that size something
WITHIN = " of at most 63 bits"


def setting(
    default: object, help: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """A dataclass field with its documentation and its closed range [low, high].

    A whole number goes up to `MOST` where no `high` is given: nearly all of them size something,
    and one without an end, in a file that somebody made, would take all of the machine's memory.
    """
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """Base of all settings: checks types and ranges when it is built.

    Raises:
        SettingsError: naming the setting, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for f in dataclasses.fields(self):
            bounds = dict(f.metadata)
            if hints[f.name] is int and bounds.get("high") is None:
                bounds["high"] = MOST
            value = checked(f.name, getattr(self, f.name), hints[f.name], bounds)
            object.__setattr__(self, f.name, value)
        self.check()

    def check(self) -> None:
        """Hook for rules that concern several settings at once."""


S = TypeVar("S", bound=Settings)


def merged(
    *,
    defaults: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    file: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Merges settings in the one order of precedence: defaults < preset < file < given.

    Args:
        defaults: of a command or class, where they differ from the method's own.
        preset: a method's official settings.
        file: the user's settings file.
        given: options or arguments.
    """
    layers = (defaults, preset, file, given)
    return {name: value for layer in layers for name, value in dict(layer or {}).items()}


def from_mapping(cls: type[S], mapping: Mapping[str, Any] | None, source: str = "") -> S:
    """Builds settings from a mapping such as a YAML block.

    Args:
        cls: a settings dataclass.
        mapping: setting name -> value; None or empty means all defaults.
        source: file or option the mapping came from, named in errors.

    Raises:
        SettingsError: unknown key (with the nearest known one), wrong type, out of range.
    """
    mapping = dict(mapping or {})
    known = [f.name for f in dataclasses.fields(cls)]
    where = f" in {source}" if source else ""
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting '{key}'{where}; {hint}")
    try:
        return cls(**mapping)
    except SettingsError as error:
        raise SettingsError(f"{error}{where}") from None


def as_mapping(settings: Settings) -> dict[str, Any]:
    """Plain values by name, ready for YAML or JSON."""
    return dataclasses.asdict(settings)


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def checked(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """A value of the type that its hint says, within `metadata`'s low and high.

    Raises:
        SettingsError: naming the value and what is allowed.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise SettingsError(f"{name} is {shown(value)}; choose one of {', '.join(choices)}")
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{name} is {shown(value)}; it takes true or false")
        return value
    if hint is str:
        if not isinstance(value, str) or not value:
            raise SettingsError(f"{name} is {shown(value)}; it takes a non-empty string")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        # PyYAML reads 1e-4 as a string: the most likely way to get here.
        hint_text = " (in YAML write 1.0e-4, with a dot)" if isinstance(value, str) else ""
        raise SettingsError(f"{name} is {shown(value)}; it takes a number{hint_text}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise SettingsError(f"{name} is {shown(value)}; it takes a number{WITHIN}")
    if not math.isfinite(value):
        raise SettingsError(f"{name} is {shown(value)}; it takes a finite number")
    if hint is int:
        if int(value) != value or abs(value) > LARGEST:
            raise SettingsError(f"{name} is {shown(value)}; it takes a whole number{WITHIN}")
        value = int(value)
    else:
        value = float(value)
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None and value < low:
        raise SettingsError(f"{name} is {shown(value)}; it must be at least {low}")
    if high is not None and value > high:
        raise SettingsError(f"{name} is {shown(value)}; it must be at most {high}")
    return value

"""Hyper-parameters as command-line options, made from the settings classes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openood_interneg.cli.arguments import with_parameters
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method, list_methods, methods_with
from openood_interneg.settings import (
    InterNegSettings,
    MethodSettings,
    NegativeSettings,
    SettingsError,
    merged,
    shown,
)
from openood_interneg.vlm.text_files import read_yaml

TEXT_SPACE = tuple(f.name for f in dataclasses.fields(NegativeSettings))
INVERSION = ("num_tokens", "steps", "lr", "weight_decay", "templates", "seed", "init")


@dataclasses.dataclass(frozen=True)
class Use:
    """A setting as one method has it."""

    method: str
    hint: Any
    field: dataclasses.Field
    default: Any


def all_settings(
    methods: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> dict[str, list[Use]]:
    """Every setting of some methods, by default of all: name -> what it is in each of them.

    Args:
        defaults: of a command, where they differ from the method's own.
    """
    out: dict[str, list[Use]] = {}
    for method in map(get_method, methods) if methods else list_methods():
        hints = typing.get_type_hints(method.settings)
        for f in dataclasses.fields(method.settings):
            if f.name in method.setting_names:
                default = (defaults or {}).get(f.name, f.default)
                out.setdefault(f.name, []).append(Use(method.name, hints[f.name], f, default))
    return out


def with_settings(
    command: Callable[..., Any],
    *,
    methods: Sequence[str] | None = None,
    names: Collection[str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Adds one option per hyper-parameter to a command that takes `settings: dict`.

    Args:
        methods: whose settings become options, by default everybody's.
        names: of the settings that the command uses, by default all. without: of those it does
            not. defaults: of the command, where they differ from the method's own.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "settings"]
    extra = []
    for name, uses in all_settings(methods, defaults).items():
        if name in without or (names is not None and name not in names):
            continue
        flag = f"--{name.replace('_', '-')}"
        kind = _type(uses)
        option = typer.Option(
            flag + (f"/--no-{flag[2:]}" * (kind is bool)),
            help=_help(uses, one_method=len(methods or ()) == 1),
            rich_help_panel=_panel(name, uses),
            show_default=False,
        )
        extra.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )

    @functools.wraps(command)
    def wrapper(**given: Any) -> Any:
        chosen = {p.name: v for p in extra if (v := given.pop(p.name)) is not None}
        return command(settings=chosen, **given)

    return with_parameters(wrapper, [*own, *extra])


def _type(uses: Sequence[Use]) -> type:
    kinds = {str if typing.get_origin(use.hint) is Literal else use.hint for use in uses}
    if kinds == {int, float}:  # the method's own settings check that a whole number is one
        return float
    return kinds.pop() if len(kinds) == 1 else str


def _panel(name: str, uses: Sequence[Use]) -> str:
    if name in TEXT_SPACE:
        return "Settings of the texts and ID images"
    owners = {use.method for use in uses if not get_method(use.method).fixed}
    return f"Settings of {owners.pop()}" if len(owners) == 1 else "Settings of several methods"


def _help(uses: Sequence[Use], one_method: bool = False) -> str:
    """The texts of a setting, each with its methods and their defaults."""
    groups: dict[str, list[Use]] = {}
    for use in uses:
        text = use.field.metadata.get("help", "")
        if typing.get_origin(use.hint) is Literal:
            text += f" ({'|'.join(typing.get_args(use.hint))})"
        groups.setdefault(text, []).append(use)
    parts = []
    by_size = sorted(groups.items(), key=lambda item: -len(item[1]))
    for place, (text, group) in enumerate(by_size):
        values = [_plain(use.default) for use in group]
        usual = max(values, key=values.count)
        others = [f"{u.method} {v}" for u, v in zip(group, values, strict=True) if v != usual]
        default = f"default {usual}" + (f" ({', '.join(others)})" if others else "")
        # Whose text it is: of a single method the panel says it, and what most methods have comes
        # first, for everybody who is not named after it.
        many = len(uses) == 1 or one_method or (place == 0 and len(group) > 4)
        who = "" if many else f"{', '.join(use.method for use in group)}: "
        parts.append(f"{who}{text}; {default}")
    return ". ".join(parts).replace("[", r"\[")


def _plain(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_config(path: Path | None) -> dict[str, Any]:
    """Settings from a YAML file: flat, or OpenOOD's `postprocessor: postprocessor_args:`.

    Raises:
        SettingsError: unreadable file or another structure.
    """
    if path is None:
        return {}
    block = read_yaml(path, SettingsError)
    if block is None:
        return {}
    if isinstance(block, dict) and "postprocessor" in block:
        block = block["postprocessor"] or {}
        if isinstance(block, dict):
            block = block.get("postprocessor_args") or {}
    if not isinstance(block, dict):
        raise SettingsError(f"{path} must map setting names to values")
    return block


def plan_methods(
    names: str,
    given: Mapping[str, Any],
    config: Path | None = None,
    preset: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[tuple[Method, MethodSettings]]:
    """Methods with their settings: defaults < preset < config < given.

    A setting goes to every chosen method that has it. `all` stands for every method whose files
    are given: those that need a checkpoint or captions are left out until they get them.

    Raises:
        SettingsError: unknown method, or a setting that none of the chosen methods has.
    """
    chosen = [get_method(name) for name in split_names(names, [m.name for m in list_methods()])]
    file = read_config(config)
    for name, value in merged(file=file, given=given).items():
        if not any(method.takes(name, value) for method in chosen):
            raise SettingsError(_nobody_takes(name, value, chosen))
    plans = []
    for method in chosen:
        if preset is not None and preset not in method.presets and method.presets:
            known = ", ".join(method.presets)
            raise SettingsError(f"{method.name} has no preset '{preset}'; it has: {known}")
        own = [{n: v for n, v in part.items() if method.takes(n, v)} for part in (file, given)]
        official = method.presets.get(preset, {}) if preset else {}
        values = merged(defaults=defaults, preset=official, file=own[0], given=own[1])
        made = method.make_settings(values, str(config or ""))
        if names != "all" or not method.missing_files(made):
            plans.append((method, made))
    return plans


def plan_interneg(
    given: Mapping[str, Any],
    config: Path | None = None,
    preset: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Method, InterNegSettings]:
    """InterNeg with its settings, by the same order.

    Raises:
        SettingsError: a setting that InterNeg does not have.
    """
    ((method, settings),) = plan_methods("interneg", given, config, preset, defaults)
    assert isinstance(settings, InterNegSettings)
    return method, settings


def _nobody_takes(name: str, value: Any, chosen: Sequence[Method]) -> str:
    for method in chosen:
        if name in method.fixed:
            return f"method '{method.name}' fixes {name} = {method.fixed[name]}, not {shown(value)}"
    if others := methods_with(name):
        return f"no chosen method has a setting '{name}'; these have: {', '.join(others)}"
    known = sorted({n for method in chosen for n in method.setting_names})
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"no chosen method has a setting '{shown(name)[1:-1]}'; {hint}"


def split_baselines(names: str) -> tuple[str, list[str]]:
    """(our methods, OpenOOD's own) out of a comma-separated list.

    Raises:
        SettingsError: a name that is neither; the nearest known ones are named.
    """
    ours = [m.name for m in list_methods()]
    given = split_names(names, ours) if names != "all" else []
    others = [name for name in given if name not in ours]
    if not others:
        return names, []
    from openood_interneg.plugin.baseline_table import is_baseline

    for name in others:
        if not is_baseline(name):
            get_method(name)  # raises, with the nearest name
    return ",".join(name for name in given if name in ours), others


def split_names(text: str, everything: Sequence[str]) -> list[str]:
    """Names out of `a,b,c`; `all` stands for everything."""
    if text == "all":
        return list(everything)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SettingsError("no method was named; try --methods interneg,neglabel,mcm")
    return list(dict.fromkeys(names))

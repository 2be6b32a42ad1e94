"""Searches over settings (OpenOOD's `APS_mode`): what is swept, and what a search needs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from openood_interneg.detectors.method import Method
from openood_interneg.plugin.loaders import LoaderError
from openood_interneg.settings import MethodSettings, SettingsError, as_mapping, shown

SWEEP_SUFFIX = "_list"


class NamedValues(list[Any]):
    """A list of values that shows their names: `beta=0.35, tau=1.0`."""

    def __init__(self, names: Sequence[str], values: Sequence[Any]):
        super().__init__(values)
        self.names = tuple(names)

    def __repr__(self) -> str:
        return ", ".join(f"{n}={v!r}" for n, v in zip(self.names, self, strict=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedValues, (self.names, list(self))


def check_sweep(
    method: Method, settings: MethodSettings, sweep: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """The lists of a sweep, every value of which is a value of its setting.

    Args:
        method: whose settings are swept.
        settings: its present settings.
        sweep: `<setting>_list` -> values.

    Raises:
        SettingsError: no setting of the method, no list, or a value out of range.
    """
    known = [name for name in as_mapping(settings) if name not in method.fixed]
    out = {}
    for name, values in sweep.items():
        setting = name.removesuffix(SWEEP_SUFFIX)
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=1)
            hint = f"; did you mean '{near[0]}{SWEEP_SUFFIX}'?" if near else ""
            raise SettingsError(f"the sweep '{name}' is over no setting of this method{hint}")
        if not isinstance(values, (list, tuple)) or not values:
            raise SettingsError(f"the sweep '{name}' is {values!r}; it takes a list of values")
        for value in values:
            method.make_settings({setting: value}, f"the sweep '{name}'")
        out[name] = list(values)
    return out


class SweptSettings:
    """The settings of a postprocessor and the search over them, through OpenOOD's interface."""

    method: ClassVar[Method]
    settings: MethodSettings
    APS_mode: bool
    _sweep: dict[str, list[Any]]

    def take_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Checks a sweep and keeps it.

        Raises:
            SettingsError: it is over something that is no setting; APS_mode is on without a sweep.
        """
        self._sweep = check_sweep(self.method, self.settings, sweep)
        _ = self.args_dict  # APS without a sweep is refused here, not in OpenOOD's recursion

    @property
    def args_dict(self) -> dict[str, list[Any]]:
        """The sweep: `<setting>_list` -> values, in the order that `set_hyperparam` takes.

        Raises:
            SettingsError: APS_mode is on and there is nothing to search.
        """
        if self.APS_mode and not self._sweep:
            raise SettingsError(
                f"APS_mode is on for '{self.method.name}', but postprocessor_sweep is empty; give "
                "it lists (beta_list: [0.2, 0.35]), or set APS_mode: False"
            )
        return dict(self._sweep)

    def set_hyperparam(self, hyperparam: Sequence[Any]) -> None:
        """Takes values in the order of `args_dict`.

        Raises:
            SettingsError: wrong number of values, or a value out of range.
        """
        names = self._swept
        if len(hyperparam) != len(names):
            takes = f"{len(names)}, of {', '.join(names)}" if names else "none: there is no sweep"
            raise SettingsError(
                f"set_hyperparam got {len(hyperparam)} values, {shown(list(hyperparam))}; "
                f"'{self.method.name}' takes {takes}"
            )
        values = as_mapping(self.settings) | dict(zip(names, hyperparam, strict=True))
        self.settings = self.method.make_settings(values, "the sweep")

    def get_hyperparam(self) -> list[Any]:
        """The present values of the swept settings, in the order of `args_dict`.

        OpenOOD prints what it found by this list, so it shows the names, too.
        """
        return NamedValues(self._swept, [getattr(self.settings, name) for name in self._swept])

    @property
    def _swept(self) -> list[str]:
        return [name.removesuffix(SWEEP_SUFFIX) for name in self._sweep]


def check_search(name: str, id_val: bool, ood_val: bool) -> None:
    """A search over settings (`APS_mode`) needs ID and OOD validation images.

    Raises:
        LoaderError: naming the blocks that the benchmark lacks.
    """
    blocks = {"dataset.val": id_val, "ood_dataset.val": ood_val}
    lacking = [block for block, present in blocks.items() if not present]
    if lacking:
        raise LoaderError(
            f"APS_mode is on for '{name}': it searches the sweep on validation images, and the "
            f"benchmark has no {' and no '.join(lacking)}; add to its YAML "
            f"{' and '.join(lacking)} (data_dir, imglist_pth; for main.py list 'val' in "
            "split_names, too), or set APS_mode: False"
        )

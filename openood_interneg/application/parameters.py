"""Parameters in scikit-learn's manner: `get_params`, `set_params`, `clone`."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from openood_interneg.application.images import ImageEncoder
from openood_interneg.detectors.registry import get_method

P = TypeVar("P", bound="Parameters")

IN_USE = ("gamma",)  # what takes effect without another `fit`


class Parameters:
    """A class whose objects are made from keyword arguments, some of them a method's settings.

    Attributes:
        _arguments: of the constructor, by name, without settings.
        _given: settings that were given, by name.
    """

    _arguments: dict[str, Any]
    _given: dict[str, Any]
    _encoder: ImageEncoder
    settings: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments and all settings of the method, by name."""
        method = get_method(self._arguments["method"])
        own = {name: getattr(self.settings, name) for name in method.setting_names}
        arguments = self._arguments | {"gamma": self._own_gamma()}
        named_alike = {name: own.pop(name) for name in list(own) if name in arguments}
        return arguments | own | ({"settings": named_alike} if named_alike else {})

    def set_params(self: P, **params: Any) -> P:
        """Sets arguments or settings by name; but for gamma, the detector is to be fitted again.

        With another method, settings that it does not have are dropped.

        Raises:
            SettingsError: as for the constructor.
        """
        if not params:
            return self
        if set(params) <= set(IN_USE):
            for name, value in params.items():
                setattr(self, name, value)
            return self
        arguments = self._arguments | {"gamma": self._own_gamma()}
        settings = dict(self._given)
        if params.get("method", arguments["method"]) != arguments["method"]:
            method = get_method(params["method"])
            settings = {name: v for name, v in settings.items() if method.takes(name, v)}
        settings |= params.pop("settings", None) or {}
        for name, value in params.items():
            (arguments if name in arguments else settings)[name] = value
        before = self._encoder
        made = cast(Any, type(self))(**arguments, settings=settings)
        made._encoder.share(before)
        self.__dict__.clear()
        self.__dict__.update(made.__dict__)
        return self

    def __sklearn_clone__(self: P) -> P:
        """The same detector, not fitted, on the same model."""
        arguments = self._arguments | {"gamma": self._own_gamma()}
        made = cast(Any, type(self))(**arguments, settings=self._given)
        made._encoder.share(self._encoder)
        return cast(P, made)

    def _own_gamma(self) -> float | None:
        """Gamma as it was set by hand."""
        raise NotImplementedError

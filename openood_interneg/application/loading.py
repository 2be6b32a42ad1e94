"""`load` as a method of the class and of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from openood_interneg.application.turns import Mode
from openood_interneg.vlm.backbones import Backbone

T = TypeVar("T", bound="Loadable")
T_co = TypeVar("T_co", covariant=True)


class LoadNew(Protocol[T_co]):
    """`load` of the class."""

    def __call__(
        self,
        path: str | Path,
        backbone: str | Path | Backbone | None = None,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        threads: Mode = "refuse",
    ) -> T_co:
        """Makes an object; see `InterNegDetector.load`."""


class LoadHere(Protocol[T_co]):
    """`load` of an object."""

    def __call__(self, path: str | Path, *, class_names: Any = None, id_images: Any = None) -> T_co:
        """Continues in the object; see `InterNegDetector.load`."""


class Loadable:
    """A class with both."""

    @classmethod
    def _from_state(
        cls: type[T],
        path: str | Path,
        backbone: str | Path | Backbone | None = None,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        threads: Mode = "refuse",
    ) -> T:
        raise NotImplementedError

    def _continue(
        self: T, path: str | Path, *, class_names: Any = None, id_images: Any = None
    ) -> T:
        raise NotImplementedError


class Load:
    """`Class.load(path)` makes an object; `object.load(path)` continues in it."""

    @overload
    def __get__(self, instance: None, owner: type[T]) -> LoadNew[T]: ...

    @overload
    def __get__(self, instance: T, owner: type[T]) -> LoadHere[T]: ...

    def __get__(self, instance: T | None, owner: type[T]) -> LoadNew[T] | LoadHere[T]:
        return owner._from_state if instance is None else instance._continue

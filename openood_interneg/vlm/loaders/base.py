"""The interface of a family of models, and the registry of families."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from torch import nn

from openood_interneg.settings import InternegError
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tokenizers import Tokenizer

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class WeightsError(InternegError, RuntimeError):
    """The weights are not on this machine and cannot be downloaded; says what to do about it."""


@dataclass(frozen=True)
class LoadedModel:
    """A model before it is frozen and moved to its device.

    Attributes:
        model: with `encode_image`, `encode_text`, `visual` and `logit_scale`, float32, on the CPU.
        preprocess: what images need before `encode_image`; None where the model does not tell, so
            that the caller must.
        label: shown in tables and errors.
        tokenizer: the model's own; None for CLIP's byte-pair encoding.
    """

    model: nn.Module
    preprocess: Preprocess | None
    label: str
    tokenizer: Tokenizer | None = None


class Loader(ABC):
    """One family of models.

    Attributes:
        priority: families are asked in ascending order, and the first that accepts a source
            loads it. A loader for a narrow form of source comes before one for a wide form.
    """

    priority: ClassVar[int] = 50

    @abstractmethod
    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        """Whether `load_backbone(source, pretrained=...)` means this family; reads no file."""

    @abstractmethod
    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        """Loads the model.

        Args:
            source: what `accepts` has accepted.
            pretrained: tag or file of the weights, where the family takes one.
            own_tokenizer: False where the caller brings a tokenizer: then none is fetched.
        """


_LOADERS: list[Loader] = []


def register_loader(cls: type[Loader]) -> type[Loader]:
    """Class decorator: adds a family to those that the factory asks."""
    _LOADERS.append(cls())
    return cls


@cache
def _import_families() -> None:
    package = __package__ or ""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def find_loader(source: str | nn.Module, pretrained: str | Path | None) -> Loader:
    """The first family, by priority, that accepts a source.

    Raises:
        WeightsError: none does.
    """
    _import_families()
    for loader in sorted(_LOADERS, key=lambda loader: loader.priority):
        if loader.accepts(source, pretrained):
            return loader
    raise WeightsError(f"no loader of backbones accepts {source!r}")

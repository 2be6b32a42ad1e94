"""Inversions, computed once and kept.

An inversion depends on the image feature, the seed and the image's id only, so another method
setting, another order of the stream or another OOD set beside the same ID images finds it here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openood_interneg.data.digests import digest, tensors_digest
from openood_interneg.data.encode import backbone_key
from openood_interneg.data.store import (
    Rows,
    Store,
    StoreError,
    read_tensors,
    write_tensors,
    writing,
)
from openood_interneg.data.stored_files import discard
from openood_interneg.negatives.inversion import Inverter, LiveInverter
from openood_interneg.settings import InversionSettings
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import prompt_set

LAYOUT = {
    "keys": Rows((), torch.int64),
    "marks": Rows((8,), torch.uint8),
    "rows": Rows((None,), values="unit"),
}


@dataclass(frozen=True)
class Inversion:
    """How a method inverts images.

    Attributes:
        key: everything besides (h, id) that decides an inversion.
        make: gives what computes inversions; called when the first one is computed.
    """

    key: Mapping[str, Any]
    make: Callable[[], Inverter]


def pseudo_token_inversion(backbone: Backbone, settings: InversionSettings) -> Inversion:
    """The paper's inversion (Algorithm 2), as the settings describe it."""
    templates = prompt_set(settings.templates)
    key = {
        "draws": "splitmix64",  # how (seed, id) become numbers
        **backbone_key(backbone),
        "templates": templates,
        "num_tokens": settings.num_tokens,
        "steps": settings.steps,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
    }
    return Inversion(key, lambda: live_inverter(backbone, settings))


def live_inverter(backbone: Backbone, settings: InversionSettings) -> LiveInverter:
    """The inverter that the settings describe; it keeps nothing."""
    templates = prompt_set(settings.templates)
    return LiveInverter(
        backbone.pseudo_prompts(templates, settings.num_tokens),
        templates=len(templates),
        steps=settings.steps,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
    )


class StoredInverter:
    """Looks inversions up, computes and keeps what is missing.

    A stored row is used only for bit-identical features: its image's id goes with a digest of h.

    Args:
        inversion: how what is missing is computed, and what decides it.
        store: where rows are kept.
    """

    def __init__(self, inversion: Inversion, store: Store):
        self.inversion = inversion
        self.folder = store.folder("inversions", inversion.key)
        self.computed = 0
        self._rows: dict[tuple[int, bytes], Tensor] = {}
        self._fresh: list[tuple[int, bytes]] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                tensors, header = read_tensors(path, LAYOUT)
                if header != self._owner():
                    raise StoreError(f"{path} belongs to other inversions")
            except StoreError as error:
                warnings.warn(f"{error}; its inversions are made anew when needed", stacklevel=2)
                with writing(self.folder):
                    discard(path)
                continue
            for image, mark, row in zip(
                tensors["keys"].tolist(), tensors["marks"], tensors["rows"], strict=True
            ):
                self._rows[image, mark.numpy().tobytes()] = row

    @cached_property
    def live(self) -> Inverter:
        """What computes inversions."""
        return self.inversion.make()

    def _owner(self) -> dict[str, str]:
        return {"entry": self.folder.name}

    def __call__(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B, D) unit image features, (B,) ids -> (B, D) unit text features."""
        names = [(i, _mark(h)) for i, h in zip(ids.tolist(), features.cpu(), strict=True)]
        missing = [i for i, name in enumerate(names) if name not in self._rows]
        if missing:
            at = torch.tensor(missing)
            rows = self.live(features[at.to(features.device)], ids[at.to(ids.device)])
            self.computed += len(missing)
            for i, row in zip(missing, rows.cpu(), strict=True):
                self._rows[names[i]] = row
                self._fresh.append(names[i])
        return torch.stack([self._rows[name] for name in names]).to(features.device)

    def flush(self) -> None:
        """Writes what was computed since the last call, as one more file."""
        if not self._fresh:
            return
        tensors = {
            "keys": torch.tensor([image for image, _ in self._fresh], dtype=torch.int64),
            "marks": torch.stack(
                [torch.frombuffer(bytearray(m), dtype=torch.uint8) for _, m in self._fresh]
            ),
            "rows": torch.stack([self._rows[name] for name in self._fresh]),
        }
        path = self.folder / f"{tensors_digest(tensors)}.safetensors"
        with writing(self.folder) as mode:
            write_tensors(path, tensors, self._owner(), mode)
        self._fresh = []


class StoredInverters:
    """The inverters of one store; methods that invert alike share one.

    Args:
        store: where inversions are kept.
    """

    def __init__(self, store: Store):
        self.store = store
        self._known: dict[str, StoredInverter] = {}

    def __call__(self, inversion: Inversion) -> StoredInverter:
        """The inverter of an inversion."""
        key = digest(inversion.key)
        if key not in self._known:
            self._known[key] = StoredInverter(inversion, self.store)
        return self._known[key]

    def flush(self) -> None:
        """Writes what was computed since the last call."""
        for inverter in self._known.values():
            inverter.flush()


def _mark(feature: Tensor) -> bytes:
    return hashlib.blake2b(feature.contiguous().numpy().tobytes(), digest_size=8).digest()

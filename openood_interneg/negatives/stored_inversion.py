"""Inversions, computed once and kept.

An inversion depends on the image feature, the seed and the image's id only, so another method
setting, another order of the stream or another OOD set beside the same ID images finds it here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openood_interneg.data.digests import tensors_digest
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
from openood_interneg.settings import InterNegSettings
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import prompt_set

LAYOUT = {
    "keys": Rows((), torch.int64),
    "marks": Rows((8,), torch.uint8),
    "rows": Rows((None,), values="unit"),
}


def live_inverter(backbone: Backbone, settings: InterNegSettings) -> LiveInverter:
    """The inverter that the settings describe."""
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
        live: computes what is missing.
        store: where rows are kept.
        key: everything besides (h, id) that decides them.
    """

    def __init__(self, live: Inverter, store: Store, key: Mapping[str, Any]):
        self.live = live
        self.folder = store.folder("inversions", key)
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


def stored_inverter(backbone: Backbone, settings: InterNegSettings, store: Store) -> StoredInverter:
    """A `StoredInverter` for a backbone and settings."""
    key = {
        "draws": "splitmix64",  # how (seed, id) become numbers
        **backbone_key(backbone),
        "templates": prompt_set(settings.templates),
        "num_tokens": settings.num_tokens,
        "steps": settings.steps,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
    }
    return StoredInverter(live_inverter(backbone, settings), store, key)


def _mark(feature: Tensor) -> bytes:
    return hashlib.blake2b(feature.contiguous().numpy().tobytes(), digest_size=8).digest()

"""Mined negative texts as tensors, for the store."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.negatives.mining import Mined


def pack(mined: Mined) -> dict[str, Tensor]:
    """Tensors of one row each; words and counts as UTF-8 JSON in (1, n) uint8."""
    text = json.dumps([mined.words, mined.parts_of_speech, mined.passing]).encode()
    return {
        "features": mined.features[None],
        "deviation": mined.deviation[None],
        "margin": mined.margin[None],
        "words": torch.frombuffer(bytearray(text), dtype=torch.uint8)[None],
    }


def unpack(tensors: Mapping[str, Tensor], device: torch.device) -> Mined:
    """The inverse of `pack`."""
    words, kinds, passing = json.loads(tensors["words"].numpy().tobytes())
    return Mined(
        words=tuple(words),
        parts_of_speech=tuple(kinds),
        features=tensors["features"][0].to(device),
        deviation=tensors["deviation"][0].to(device),
        margin=tensors["margin"][0].to(device),
        passing=passing,
    )

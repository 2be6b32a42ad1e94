"""Mined negative texts as tensors, for the store."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.data.stored_files import Rows
from openood_interneg.negatives.mining import NegativeTexts


def mined_layout(dim: int) -> dict[str, Rows]:
    """What `pack` gives for features of a size."""
    return {
        "features": Rows((None, dim), values="unit"),
        "deviation": Rows((None,), values="number"),
        "margin": Rows((None,), values="number"),
        "words": Rows((None,), torch.uint8, check_values=_words),
    }


def pack(mined: NegativeTexts) -> dict[str, Tensor]:
    """Tensors of one row each; words and counts as UTF-8 JSON in (1, n) uint8."""
    text = json.dumps([mined.words, mined.parts_of_speech, mined.passing]).encode()
    return {
        "features": mined.features[None],
        "deviation": mined.deviation[None],
        "margin": mined.margin[None],
        "words": torch.frombuffer(bytearray(text), dtype=torch.uint8)[None],
    }


def unpack(tensors: Mapping[str, Tensor], device: torch.device) -> NegativeTexts:
    """The inverse of `pack`."""
    words, kinds, passing = _words(tensors["words"])
    return NegativeTexts(
        words=tuple(words),
        parts_of_speech=tuple(kinds),
        features=tensors["features"][0].to(device),
        deviation=tensors["deviation"][0].to(device),
        margin=tensors["margin"][0].to(device),
        passing=passing,
    )


def _words(packed: Tensor) -> tuple[list[str], list[str], dict[str, int]]:
    """Words, their parts of speech and the counts; ValueError for anything else."""
    words, kinds, passing = json.loads(packed.numpy().tobytes())
    if not (len(words) == len(kinds) and isinstance(passing, dict)):
        raise ValueError("words and parts of speech do not belong together")
    return words, kinds, passing

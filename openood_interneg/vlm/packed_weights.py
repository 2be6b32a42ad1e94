"""Weights in 11 bits a number, in two parts that a wheel compresses well.

A large matrix W is stored as three tensors, so that W = (8 high + low) step: `W.high` (int8, of its
shape), `W.low` (0 to 7, two to a byte: 8 times the one and the next) and `W.step`, one for each
row. `tools/pack_miniature.py` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HIGH, LOW, STEP = ".high", ".low", ".step"


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict, float32, of tensors stored in parts; what is stored whole stays."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(HIGH):
            name = name.removesuffix(HIGH)
            pairs = tensors[name + LOW]
            low = torch.stack([pairs >> 3, pairs & 7], dim=-1).view(tensor.shape)
            rows = tensor.short().mul_(8).add_(low).flatten(1)
            whole = rows.float().mul_(tensors[name + STEP][:, None])
            state[name] = whole.view(tensor.shape)
        elif not name.endswith((LOW, STEP)):
            state[name] = tensor.float()
    return state

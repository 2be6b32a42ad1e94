"""What a threshold says of scores."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Judgement(NamedTuple):
    """Which images are known.

    Attributes:
        known: (B,) bool, whether an image is of a class.
        margin: (B,) float32, score minus gamma (known images: at least 0), or p minus alpha (known
            images: above 0).
        gamma: (B,) float32, or the one that stays; None where p-values tell.
    """

    known: Tensor
    margin: Tensor
    gamma: Tensor | float | None

"""ID images whose scores are kept up to date, so that the threshold goes with the memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.detectors.scoring import exact

LARGEST = 1 << 26  # numbers that are kept of watched images at most


@dataclass
class Watched:
    """ID images that a detector watches.

    Attributes:
        features: (n, D) or (V, n, D).
        tpr: share of them that the threshold lets pass.
        scores: (n,), as far as they are known.
        moment: of the memory when they were; see `Detector._moment`.
    """

    features: Tensor
    tpr: float
    scores: Tensor | None = None
    moment: object = None

    def threshold(self, scores: Tensor) -> float:
        """The score that at least the share `tpr` of the images reaches; see `reached`."""
        return float(reached(scores, self.tpr))


def rank_reached(count: int, tpr: float) -> int:
    """How many of `count` images may lie below a threshold that the share `tpr` reaches."""
    return min(math.floor((1 - tpr) * count + 1e-9), count - 1)


def reached(scores: Tensor, tpr: float) -> Tensor:
    """The largest of the scores (..., n) that at least the share `tpr` of them reaches, (...)."""
    return scores.kthvalue(rank_reached(scores.shape[-1], tpr) + 1, dim=-1).values


def moved_along(gamma: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """A threshold that moves, in log-odds, by as much as an image's own embedding moved its score.

    The image is then on the same side of it as before its embedding came in. Watched images have
    none in the memory, so an image that is judged with its own would be rejected too often.

    Args:
        gamma: (m,) thresholds before. before, after: (m,) scores from 0 to 1.

    Returns:
        (m,)
    """
    parts = torch.stack([gamma.expand_as(before), before, after])
    # A score of 0 or 1 has no log-odds; the nearest one that has stands for it.
    old, here, there = exact(parts).clamp(1e-45, 1 - 1e-16).logit()
    return torch.sigmoid(old + (there - here)).to(after)

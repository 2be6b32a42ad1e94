"""The ID images that an image is compared with, one by one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.scoring import exact

CONCENTRATIONS = np.geomspace(2.0, 200.0, 47)


def leave_one_out_concentration(cosine: Tensor, classes: Tensor) -> float:
    """k at which the shots classify one another best, each left out.

    Args:
        cosine: (n, n) cosines of the shots with one another. classes: (n,) int64.

    Returns:
        The one of `CONCENTRATIONS` with the largest mean log posterior of the shots' own classes
        under kernel sums per class, over the shots whose class has another one.

    Raises:
        DetectorError: no class has two shots.
    """
    cosine = exact(cosine)
    classes = classes.to(cosine.device)
    same = (classes[:, None] == classes).fill_diagonal_(False)
    several = same.any(dim=1)
    if not several.any():
        raise DetectorError("RatioNeg needs at least two ID images of a class; give more of them")
    exponent = cosine - 1
    best, found = -math.inf, float(CONCENTRATIONS[0])
    for k in CONCENTRATIONS.tolist():
        # In place: for 1,000 classes a matrix of this kind has 128 MB or more.
        mass = torch.mul(exponent, k).exp_().fill_diagonal_(0)
        total = mass.sum(dim=1)
        own = mass.mul_(same).sum(dim=1)
        fit = float((own[several].log() - total[several].log()).mean())
        if fit > best:
            best, found = fit, k
    return found


def first_of_each_class(rows: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` rows of each class, the first ones, in their order."""
    place = torch.zeros_like(classes)
    for label in classes.unique().tolist():
        here = classes == label
        place[here] = torch.arange(int(here.sum()), device=classes.device)
    keep = place < count
    return rows[keep], classes[keep]


class Null(NamedTuple):
    """What the scores of a moment are measured by.

    Attributes:
        shots: (n,) scores of the shots, ascending.
        mean: of them.
        deviation: of them.
        gamma: threshold of the watched images, on the scale of S; None where none are watched.
    """

    shots: np.ndarray
    mean: float
    deviation: float
    gamma: float | None

    def standard(self, raw: np.ndarray) -> np.ndarray:
        """S of a(h) + r(h)."""
        return (raw - self.mean) / self.deviation

    def p(self, raw: np.ndarray) -> np.ndarray:
        """The share of ID images that score as low, in (0, 1]."""
        below = np.searchsorted(self.shots, raw, side="right")
        return (1 + below) / (len(self.shots) + 1)

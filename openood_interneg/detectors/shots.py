"""The ID images that an image is compared with, one by one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

CONCENTRATIONS = np.geomspace(2.0, 200.0, 47)


def leave_one_out_concentration(cosine: Tensor, classes: Tensor) -> float:
    """k at which the shots classify one another best, each left out.

    Args:
        cosine: (n, n) cosines of the shots with one another. classes: (n,) int64.

    Returns:
        The one of `CONCENTRATIONS` with the largest mean log posterior of the shots' own classes
        under kernel sums per class.
    """
    off = ~torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    member = torch.nn.functional.one_hot(classes).to(torch.float64)
    own = classes[:, None]
    best, found = -math.inf, float(CONCENTRATIONS[0])
    for k in CONCENTRATIONS.tolist():
        mass = (torch.exp(k * (cosine.double() - 1)) * off) @ member  # (n, C)
        fit = float((mass.gather(1, own)[:, 0].log() - mass.sum(dim=1).log()).mean())
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

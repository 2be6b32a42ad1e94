"""Scores as pure functions of logits (Eqs. 6 and 11), in log-space throughout."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where their device has none (Apple's)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def logits(features: Tensor, texts: Tensor, logit_scale: float, tau: float = 1.0) -> Tensor:
    """(s / tau) cos(h, e): (B, D) and (n, D) unit rows -> (B, n)."""
    return features @ texts.t() * (logit_scale / tau)


def id_mass(id_lse: Tensor, negative_lse: Tensor) -> Tensor:
    """Softmax mass of the ID labels (Eq. 6): sum_ID / (sum_ID + sum_neg), from log-sums.

    Args:
        id_lse: (B,) logsumexp of the ID logits.
        negative_lse: (B,) or (B, G) logsumexp of the negatives' logits; -inf for none.

    Returns:
        Same shape as `negative_lse`, in [0, 1].
    """
    if negative_lse.dim() > id_lse.dim():
        id_lse = id_lse.unsqueeze(-1)
    return torch.sigmoid(id_lse - negative_lse)


def group_order(count: int, groups: int, seed: int = 0) -> Tensor:
    """Order in which negatives are laid out so that G equal runs are the groups.

    The last `count mod G` negatives are dropped first, then the rest is permuted by a private
    generator seeded with `seed`, as NegLabel's code does.

    Returns:
        (count - count mod G,) int64 on the CPU; for one group the identity.
    """
    kept = count - count % groups
    if groups == 1:
        return torch.arange(kept)
    return torch.randperm(kept, generator=torch.Generator().manual_seed(seed))


def grouped_score(id_logits: Tensor, negative_logits: Tensor, groups: int) -> Tensor:
    """Mean over G groups of the ID softmax mass (NegLabel's grouping; G = 1 is Eq. 6).

    Args:
        id_logits: (B, C).
        negative_logits: (B, n) already in `group_order`, n a multiple of G; n = 0 scores 1.

    Returns:
        (B,) in [0, 1], high = ID.
    """
    return grouped_score_from_lse(id_logits.logsumexp(dim=1), negative_logits, groups)


def grouped_score_from_lse(id_lse: Tensor, negative_logits: Tensor, groups: int) -> Tensor:
    """`grouped_score` where the ID log-sum (B,) is at hand already."""
    batch, count = negative_logits.shape
    if count == 0:
        return torch.ones_like(id_lse)
    runs = negative_logits.view(batch, groups, count // groups)  # a view: no copy per group
    return id_mass(id_lse, runs.logsumexp(dim=2)).mean(dim=1)


def max_softmax(logits: Tensor) -> Tensor:
    """Largest softmax probability of (B, n) logits, (B,)."""
    return (logits.amax(dim=1) - logits.logsumexp(dim=1)).exp()

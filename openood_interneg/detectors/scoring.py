"""Scores as pure functions of logits (Eqs. 6 and 11), in log-space throughout."""

from __future__ import annotations

import torch
from torch import Tensor

# A block of logits that is summed up at once fits into a cache: so it is faster, too.
ROWS = 256  # images
COLUMNS = 4096  # texts
# Logits that are kept while groups of them are summed up: 256 MiB.
KEPT = 1 << 26


def exact(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where their device has none (Apple's)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def logits(features: Tensor, texts: Tensor, logit_scale: float, tau: float = 1.0) -> Tensor:
    """(s / tau) cos(h, e): (B, D) and (n, D) unit rows -> (B, n)."""
    return (features @ texts.t()).mul_(logit_scale / tau)


def log_sum(features: Tensor, texts: Tensor, logit_scale: float, tau: float = 1.0) -> Tensor:
    """log sum_j e^{(s / tau) cos(h, e_j)} in blocks, so that working memory grows with neither.

    Args:
        features: (B, D) unit rows; their dtype is that of the logits.
        texts: (n, D) unit rows; they are not copied.
        logit_scale: s.
        tau: temperature.

    Returns:
        (B,) float64, on the CPU where the device has none; -inf for n = 0.
    """
    sums, blocks = [], texts.split(COLUMNS)
    for rows in features.split(ROWS):
        # One place for all blocks' sums: small results between large blocks would keep the
        # allocator from giving a block the room of the last one.
        parts = rows.new_empty(len(rows), len(blocks))
        for number, block in enumerate(blocks):
            parts[:, number] = logits(rows, block.to(rows), logit_scale, tau).logsumexp(dim=1)
        # Blocks' sums are rounded like one sum of all; adding them up in float64 loses no more.
        sums.append(exact(parts).logsumexp(dim=1))
    return torch.cat(sums)


def group_log_sums(every: Tensor, order: Tensor, groups: int) -> Tensor:
    """Log-sums over G groups of negatives, in blocks.

    Args:
        every: (m, B) logits, an image's in a column: so what is looked up are whole rows.
        order: (n,) int64 rows, group after group; n a multiple of G.
        groups: G.

    Returns:
        (B, G) float64, on the CPU where the device has none; -inf for n = 0.
    """

    pieces = order.view(groups, -1).split(COLUMNS, dim=1)
    parts = every.new_empty(len(pieces), groups, every.shape[1])  # in one place, as in `log_sum`
    for number, piece in enumerate(pieces):
        size = max(COLUMNS // max(piece.shape[1], 1), 1)
        for part, some in zip(parts[number].split(size), piece.split(size), strict=True):
            rows = every.index_select(0, some.flatten()).unflatten(0, some.shape)
            part.copy_(rows.logsumexp(dim=1))
    return exact(parts).logsumexp(dim=0).t()


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
    batch, count = negative_logits.shape
    id_lse = id_logits.logsumexp(dim=1)
    if count == 0:
        return torch.ones_like(id_lse)
    runs = negative_logits.view(batch, groups, count // groups)  # a view: no copy per group
    return id_mass(id_lse, runs.logsumexp(dim=2)).mean(dim=1)


def max_softmax(logits: Tensor) -> Tensor:
    """Largest softmax probability of (B, n) logits, (B,)."""
    return (logits.amax(dim=1) - logits.logsumexp(dim=1)).exp()

"""Which images of a stream are surely ID or OOD, and how certain their label is (AdaNeg)."""

from __future__ import annotations

from torch import Tensor


def pseudo_labels(
    score: Tensor, theta: float, gap: float, id_share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Which images are surely ID and surely OOD.

    With an ID share of one half: ID above theta + g(1 - theta), OOD below theta - g theta. Where
    ID images prevail (r > 1/2) the OOD rule becomes theta(1 - r); where OOD images do, the ID
    rule becomes theta + (1 - r)(1 - theta).

    Args:
        score: (B,) static scores.
        theta: threshold of the score.
        gap: g.
        id_share: r, share of ID among recent pseudo-labels.

    Returns:
        Two (B,) bool masks, pseudo-ID and pseudo-OOD.
    """
    id_gap = 1 - id_share if id_share < 0.5 else gap
    ood_gap = id_share if id_share > 0.5 else gap
    return score > theta + id_gap * (1 - theta), score < theta - ood_gap * theta


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of (B, n) logits, (B,), float32 and finite for any finite logits."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def half_entropy(logits: Tensor) -> Tensor:
    """`entropy` with probabilities rounded to float16: NaN for a row of which one underflows."""
    p = logits.softmax(dim=1).half().float()
    return -(p.log() * p).sum(dim=1)

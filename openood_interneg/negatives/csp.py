"""Texts of CSP: conjugated phrases, and the veto."""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from openood_interneg.negatives.mining import Criterion

# The 14 words of CSP's code; fixed, not derived from the ID classes.
SUPERCLASSES = (
    "environment", "space", "object", "scene", "place", "item", "area",
    "view", "thing", "pattern", "structure", "landscape", "vista", "creature",
)  # fmt: skip

EXCLUDED = ("noun.person", "noun.quantity", "noun.group", "adj.pert")


def conjugate(
    adjectives: Sequence[str], superclasses: Sequence[str] = SUPERCLASSES, seed: int = 0
) -> dict[str, str]:
    """One phrase "adjective superclass" per adjective.

    The authors' code draws in the order in which the operating system lists the corpus files, so
    its phrases differ between machines. Here the draw goes over the sorted distinct adjectives:
    the same words give the same phrases everywhere, whatever their order.
    """
    rng = random.Random(seed)
    return {
        # random() is the one method whose sequence Python keeps across versions.
        word: f"{word} {superclasses[int(rng.random() * len(superclasses))]}"
        for word in sorted(set(adjectives))
    }


def with_veto(criterion: Criterion, labels: Tensor, threshold: float) -> Criterion:
    """Ranks texts last (similarity 1) whose cosine with any label (C, D) is above `threshold`."""

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        passes, rank = criterion(texts)
        double = (texts @ labels.t()).amax(dim=1) > threshold
        return passes, rank.masked_fill(double, -1.0)  # rank is minus the similarity

    return look

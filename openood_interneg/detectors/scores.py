"""What a detector says of a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class _PredAndScore(NamedTuple):
    pred: Tensor
    score: Tensor


class Scores(_PredAndScore):
    """Predictions and scores, unpacked as this pair, and what a method says besides.

    Attributes:
        pred: (B,) int64 ID class.
        score: (B,) float32, high = ID.
        p: (B,) float32 in (0, 1], the share of ID images that score as low, where a method has
            p-values; else None.
        gamma: (B,) float32, the threshold of each image's own moment, where ID images are watched;
            else None.
    """

    p: Tensor | None = None
    gamma: Tensor | None = None

    def __new__(
        cls,
        pred: Tensor,
        score: Tensor,
        p: Tensor | None = None,
        gamma: Tensor | None = None,
    ) -> Scores:
        made = super().__new__(cls, pred, score)
        made.p, made.gamma = p, gamma
        return made

    def judged_by(self, gamma: float | Tensor) -> Scores:
        """The same with one threshold for all images, or with theirs (B,)."""
        if not isinstance(gamma, Tensor):
            gamma = torch.full_like(self.score, gamma)
        return Scores(self.pred, self.score, self.p, gamma)

    def at(self, index: Tensor) -> Scores:
        """Those of some images, or in another order; the index is (m,) int64."""
        index = index.to(self.pred.device)
        columns = (self.pred, self.score, self.p, self.gamma)
        return Scores(*(None if c is None else c[index] for c in columns))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """One after the other; at least one part, and all with the same columns."""

        def column(name: str) -> Tensor | None:
            columns = [getattr(part, name) for part in parts]
            return None if any(c is None for c in columns) else torch.cat(columns)

        pred, score = (torch.cat([part[i] for part in parts]) for i in range(2))
        return Scores(pred, score, column("p"), column("gamma"))

"""What a stream shows of a method in use: false alarms and OOD caught at a calibrated threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openood_interneg.evaluation.metrics import ood_metrics

TPR = 0.95  # share of ID images that the threshold is to let pass
WITHIN = 2.0  # points by which false alarms may miss 5 %
TENTHS = 10  # pieces of a stream over whose images lines are drawn
FOLLOWING, FIXED, BY_P = "", ", fixed", ", p"  # ends of the figures' names


@dataclass(frozen=True)
class Judged:
    """A stream's images in their order, and what a detector said of each.

    Attributes:
        owners: (n,) int64, 0 for ID images, else the number of the OOD set, from 1.
        parts: (n,) int64, as `streams.Course` has them.
        labels: (n,) int64 classes, -1 for OOD.
        pred: (n,) int64.
        score: (n,) float32, high = ID.
        gamma: (n,) float32, the threshold of each image's own moment.
        fixed: the threshold before the stream.
        p: (n,) float32 p-values in (0, 1], of methods that have them.
    """

    owners: np.ndarray
    parts: np.ndarray
    labels: np.ndarray
    pred: np.ndarray
    score: np.ndarray
    gamma: np.ndarray
    fixed: float
    p: np.ndarray | None = None

    def unknown(self) -> dict[str, np.ndarray]:
        """Which images are called unknown, by each way to decide: (n,) bool."""
        out = {
            FOLLOWING: self.score < self.gamma,
            FIXED: self.score < np.float32(self.fixed),
        }
        return out if self.p is None else out | {BY_P: self.p <= np.float32(1 - TPR)}


def set_figures(judged: Judged, number: int) -> dict[str, Any]:
    """The figures of one OOD set, in percent.

    AUROC and both FPR@95 are of the parts of the stream in which the set comes. False alarms are
    of all of the stream's ID images; `Within 2` is 100 where they are within 2 points of 5 %, else
    0. `along` has the shares of each tenth of the stream, None where it has no such image.

    Args:
        judged: the stream.
        number: of the OOD set, from 1.

    Raises:
        ValueError: a score that is not finite.
    """
    own, ood = judged.owners == 0, judged.owners == number
    rivals = own & np.isin(judged.parts, judged.parts[ood])
    out: dict[str, Any] = ood_metrics(
        judged.score[rivals], judged.score[ood], judged.pred[rivals], judged.labels[rivals]
    )
    tenth = np.arange(len(own)) * TENTHS // len(own)
    along: dict[str, list[float | None]] = {}
    for way, unknown in judged.unknown().items():
        alarms = 100.0 * float(unknown[own].mean())
        out[f"False alarms{way}"] = alarms
        out[f"Within 2{way}"] = 100.0 * (abs(alarms - 100 * (1 - TPR)) <= WITHIN + 1e-9)
        out[f"OOD caught{way}"] = 100.0 * float(unknown[ood].mean())
        for name, side in (("False alarms", own), ("OOD caught", ood)):
            along[name + way] = [
                _share(unknown[side & (tenth == piece)]) for piece in range(TENTHS)
            ]
    out = {name: round(value, 6) for name, value in out.items()}
    return out | {"counts": [int(own.sum()), int(ood.sum())], "along": along}


def sliding_shares(unknown: np.ndarray, windows: int) -> list[float]:
    """Percentages called unknown in windows that slide over a stream's images of one side.

    Args:
        unknown: (n,) bool in the order of the stream, n > 0.
        windows: how many; each holds a fifth of the images, the first the first fifth and the last
            the last.
    """
    size = max(1, len(unknown) // 5)
    begins = np.linspace(0, len(unknown) - size, windows).round().astype(int)
    return [100.0 * float(unknown[begin : begin + size].mean()) for begin in begins]


def _share(unknown: np.ndarray) -> float | None:
    return round(100.0 * float(unknown.mean()), 3) if len(unknown) else None

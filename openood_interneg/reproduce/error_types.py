"""Why an ID image is rejected (Figures 2 and 5), and what a detector compares it with.

An ID image whose score is below a threshold gamma is *Max-OOD dominant* if its highest negative
logit beats its highest ID logit: one negative text was enough. Otherwise it is *Sum-OOD
dominant*: no single negative wins, but all of them together do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openood_interneg.detectors.base import Detector, DetectorError
from openood_interneg.evaluation.protocols import Batch

GAMMAS = tuple(round(0.02 * i, 2) for i in range(1, 50))


@dataclass(frozen=True)
class ErrorRates:
    """Rates over the thresholds, in percent of the ID images, each (len(gammas),)."""

    gammas: np.ndarray
    max_ood: np.ndarray
    sum_ood: np.ndarray


def error_rates(
    score: np.ndarray,
    best_id: np.ndarray,
    best_negative: np.ndarray,
    gammas: Sequence[float] = GAMMAS,
) -> ErrorRates:
    """Max-OOD and Sum-OOD dominant error rates of ID images.

    Args:
        score: (n,) scores in [0, 1], high = ID.
        best_id: (n,) highest ID logits.
        best_negative: (n,) highest negative logits.
        gammas: thresholds.
    """
    thresholds = np.asarray(gammas, dtype=np.float64)
    rejected = score[:, None] < thresholds[None]
    by_max = (best_negative > best_id)[:, None]
    return ErrorRates(
        thresholds,
        100.0 * (rejected & by_max).mean(axis=0),
        100.0 * (rejected & ~by_max).mean(axis=0),
    )


class BestLogits:
    """An observer of a stream: the highest ID and negative logit of each image.

    Attributes:
        of_labels: (n,) in the order of the lists.
        of_negatives: (n,), -inf for a method without negatives.
    """

    def __init__(self, detector: Detector[Any], size: int):
        self.detector = detector
        self.of_labels = np.full(size, -np.inf, np.float32)
        self.of_negatives = np.full(size, -np.inf, np.float32)

    def __call__(self, batch: Batch) -> None:
        labels, negatives = self.detector.text_logits(batch.features)
        places = batch.places.numpy()
        self.of_labels[places] = labels.amax(dim=1).cpu().numpy()
        if negatives.shape[1]:
            self.of_negatives[places] = negatives.amax(dim=1).cpu().numpy()


def unit_score(detector: Detector[Any], score: np.ndarray) -> np.ndarray:
    """The score on [0, 1], so that methods share the axis of gamma.

    AdaNeg's combined score reaches 1 + lambda; a softmax mass lies in [0, 1] already.

    Raises:
        DetectorError: scores of another range (energies, sums of two confidences, ...), over
            which a threshold in [0, 1] says nothing.
    """
    if detector.highest_score != 1.0:
        score = score / detector.highest_score
    low, high = float(score.min(initial=0.0)), float(score.max(initial=1.0))
    if low < -1e-5 or high > 1 + 1e-5:
        raise DetectorError(
            f"{type(detector).__name__}'s scores run from {score.min():.4g} to {score.max():.4g}; "
            "error types (kind: errors) compare scores with thresholds between 0 and 1, so leave "
            "this method out of the experiment"
        )
    return score

"""ROC and precision-recall curves, point for point those of scikit-learn, which OpenOOD uses.

Written out because importing `sklearn.metrics` takes longer than all metrics of a run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def roc_points(is_positive: np.ndarray, score: np.ndarray) -> Curve:
    """False and true positive rates at falling thresholds, from (0, 0) to (1, 1).

    Points between two others on one line are left out (scikit-learn's `drop_intermediate`), which
    matters to who looks for the first point with a rate of 95 %.

    Args:
        is_positive: (n,) 0 or 1, both present.
        score: (n,) finite, high = positive.

    Returns:
        False positive rates and true positive rates, (m,) each, ascending, in [0, 1].
    """
    false, true = _counts(is_positive, score)
    if len(false) > 2:
        corner = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
        kept = np.concatenate([[True], corner, [True]])
        false, true = false[kept], true[kept]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def precision_recall_points(is_positive: np.ndarray, score: np.ndarray) -> Curve:
    """Precision and recall at rising thresholds, the last point being (1, 0).

    Args:
        is_positive: (n,) 0 or 1, with a 1.
        score: (n,) finite, high = positive.

    Returns:
        Precision and recall, (m,) each, in [0, 1]; recall descends.
    """
    false, true = _counts(is_positive, score)
    precision, recall = true / (true + false), true / true[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def area(x: np.ndarray, y: np.ndarray) -> float:
    """Area under points by the trapezoidal rule; x is sorted, either way."""
    return abs(float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2.0)))


def _counts(is_positive: np.ndarray, score: np.ndarray) -> Curve:
    """False and true positives at each distinct score, falling."""
    order = np.argsort(score, kind="stable")[::-1]
    score = score[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each run of equals
    true = np.cumsum(is_positive[order], dtype=np.float64)[last]
    return 1.0 + last - true, true

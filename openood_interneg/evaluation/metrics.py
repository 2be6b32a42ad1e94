"""Metrics exactly as OpenOOD defines them, and the other FPR@95.

OOD is the positive class: `FPR@95` is the share of ID images rejected when 95 % of the OOD
images are caught. `FPR@95(ID+)` is the other convention, the share of OOD images accepted when
95 % of the ID images are. All values are percent.
"""

from __future__ import annotations

import numpy as np

from openood_interneg.evaluation.curves import area, precision_recall_points, roc_points

METRICS = ("FPR@95", "FPR@95(ID+)", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC")


def ood_metrics(
    id_score: np.ndarray, ood_score: np.ndarray, id_pred: np.ndarray, id_label: np.ndarray
) -> dict[str, float]:
    """The six figures of a table row, in percent.

    Args:
        id_score: scores of the ID images, high = ID.
        ood_score: scores of the OOD images.
        id_pred: predicted classes of the ID images.
        id_label: their true classes.

    Raises:
        ValueError: an empty side, or a score that is not finite.
    """
    if len(id_score) == 0 or len(ood_score) == 0:
        raise ValueError("metrics need at least one ID and one OOD image")
    score = np.concatenate([id_score, ood_score]).astype(np.float64)
    if not np.isfinite(score).all():
        raise ValueError("a score is NaN or infinite")
    is_ood = np.concatenate([np.zeros(len(id_score), int), np.ones(len(ood_score), int)])
    fpr, tpr = roc_points(is_ood, -score)
    precision_in, recall_in = precision_recall_points(1 - is_ood, score)
    precision_out, recall_out = precision_recall_points(is_ood, -score)
    values = {
        "FPR@95": fpr[np.argmax(tpr >= 0.95)],
        "FPR@95(ID+)": fpr_at_95_id_positive(is_ood, score),
        "AUROC": area(fpr, tpr),
        "AUPR_IN": area(recall_in, precision_in),
        "AUPR_OUT": area(recall_out, precision_out),
        "ACC": np.mean(id_pred == id_label),
    }
    return {name: 100.0 * float(value) for name, value in values.items()}


def fpr_at_95_id_positive(is_ood: np.ndarray, score: np.ndarray) -> float:
    """Share of OOD accepted at the threshold that accepts 95 % of ID, in [0, 1]."""
    fpr, tpr = roc_points(1 - is_ood, score)
    return float(fpr[np.argmax(tpr >= 0.95)])

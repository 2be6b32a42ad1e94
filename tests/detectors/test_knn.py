"""KNN against slow versions written from the formulas, and its texts."""

import numpy as np
from static_helpers import (
    rows,
    same,
)

from openood_interneg.detectors.knn import KNN, KNNSettings


def test_knn(image_space, image_stream):
    scores = KNN(KNNSettings(k=4)).fit(image_space).step(image_stream)
    bank = rows(image_space.extra["id_features"])
    expected = [-sorted(float(np.linalg.norm(h - b)) for b in bank)[3] for h in rows(image_stream)]
    same(scores.score, expected)

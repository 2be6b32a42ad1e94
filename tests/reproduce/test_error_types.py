"""Max-OOD and Sum-OOD dominant errors."""

import numpy as np

from openood_interneg.reproduce.error_types import error_rates


def test_error_types():
    score = np.array([0.1, 0.3, 0.6, 0.9])
    rates = error_rates(score, np.array([1.0, 5, 5, 5]), np.array([2.0, 1, 6, 1]), (0.05, 0.5, 0.7))
    assert rates.max_ood.tolist() == [0, 25, 50] and rates.sum_ood.tolist() == [0, 25, 25]

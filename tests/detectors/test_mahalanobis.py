"""Mahalanobis against slow versions written from the formulas, and its texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from static_helpers import CLASSES, rows, same

from openood_interneg.detectors.mahalanobis import Mahalanobis, MahalanobisSettings


def ledoit_wolf(x):
    """Ledoit and Wolf (2004), Section 3.2, with loops over the rows."""
    n, size = x.shape
    s = x.T @ x / n
    mu = np.trace(s) / size
    spread = ((s - mu * np.eye(size)) ** 2).sum()
    noise = sum(((np.outer(row, row) - s) ** 2).sum() for row in x) / n**2
    share = min(noise, spread) / spread
    return share * mu * np.eye(size) + (1 - share) * s


@pytest.mark.parametrize("covariance", ["empirical", "ledoit_wolf"])
@pytest.mark.parametrize("center", ["class", "global"])
def test_mahalanobis(image_space, image_stream, covariance, center):
    settings = MahalanobisSettings(covariance=covariance, center=center)
    scores = Mahalanobis(settings).fit(image_space).step(image_stream)
    x, own = rows(image_space.extra["id_features"]), image_space.extra["id_labels"].numpy()
    means = np.stack([x[own == c].mean(axis=0) for c in range(CLASSES)])
    residuals = x - (means[own] if center == "class" else x.mean(axis=0))
    sigma = residuals.T @ residuals / len(x)
    sigma = sigma if covariance == "empirical" else ledoit_wolf(residuals)
    inverse = np.linalg.inv(sigma)
    expected = [-min((h - m) @ inverse @ (h - m) for m in means) for h in rows(image_stream)]
    same(scores.score, expected, tolerance=1e-4)
    assert scores.pred.tolist() == (image_stream @ image_space.labels.t()).argmax(1).tolist()


def test_mahalanobis_with_fewer_images_than_dimensions(image_space, image_stream):
    few = image_space.extra["id_features"][::6], image_space.extra["id_labels"][::6]
    small = replace(image_space, extra={"id_features": few[0], "id_labels": few[1]})
    for covariance in ("empirical", "ledoit_wolf"):
        settings = MahalanobisSettings(covariance=covariance)
        assert bool(torch.isfinite(Mahalanobis(settings).fit(small).step(image_stream).score).all())

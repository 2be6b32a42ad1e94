"""Mahalanobis distance on CLIP's image features (Lee et al., NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.id_features import id_images, space
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import exact
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import IdImageSettings, setting


@dataclass(frozen=True)
class MahalanobisSettings(IdImageSettings):
    """Settings of Mahalanobis; `images_per_class` ID images estimate means and covariance."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    covariance: Literal["ledoit_wolf", "empirical"] = setting(
        "ledoit_wolf", "estimator: shrunk (few images) or empirical with its pseudo-inverse"
    )
    center: Literal["class", "global"] = setting(
        "class", "scatter around the class means (the paper) or the common mean (MCM's code)"
    )


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of the rows (n, D) of each class: (C, D)."""
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes)[:, None]


def precision_root(residuals: np.ndarray, covariance: str) -> np.ndarray:
    """A (D, D) with A A^T = the inverse (or pseudo-inverse) of the covariance of (n, D) rows.

    With fewer rows than dimensions the empirical covariance is singular; Ledoit and Wolf's
    estimate shrinks it towards a multiple of the identity and has an inverse.
    """
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf  # a second to import

    estimator = LedoitWolf if covariance == "ledoit_wolf" else EmpiricalCovariance
    precision = estimator(assume_centered=True).fit(residuals).get_precision()
    values, vectors = np.linalg.eigh((precision + precision.T) / 2)
    return vectors * np.sqrt(values.clip(min=0.0))


class Mahalanobis(Detector[MahalanobisSettings]):
    r"""Distance to the nearest class mean of ID images, under one covariance for all classes.

    .. math:: S(h) = -\min_c (h - \mu_c)^T \Sigma^{-1} (h - \mu_c)

    mu_c and Sigma come from the unit features of N ID images per class; the prediction is the
    zero-shot one. The paper centres each class at its own mean; MCM's code, the likely source of
    published CLIP figures, takes the covariance around the common mean (`center: global`).
    Source: arXiv 1807.03888, Eqs. 1, 2 (on the last features, without its input noise).
    """

    Settings = MahalanobisSettings

    def _fit(self, space: TextSpace) -> None:
        features, labels = id_images(space, "Mahalanobis")
        features = exact(features)  # distances are differences of large numbers
        labels = labels.to(features.device)
        means = class_means(features, labels, len(space.labels))
        center = means[labels] if self.settings.center == "class" else features.mean(dim=0)
        root = precision_root((features - center).cpu().numpy(), self.settings.covariance)
        self._root = torch.from_numpy(root).to(features)
        self._means = means @ self._root

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        distance = torch.cdist(exact(features) @ self._root, self._means)
        pred = (features @ self.space.labels.t()).argmax(dim=1)
        return Scores(pred, -distance.amin(dim=1).square().float().to(features.device))


METHOD = Method(
    name="mahalanobis",
    title="Mahalanobis (CLIP)",
    detector=Mahalanobis,
    paper="1807.03888",
    year=2018,
    venue="NeurIPS",
    needs=("ID images",),
    space=space,
    # No settings are stated with the published CLIP figures: the defaults everywhere.
    presets={"imagenet": {}, "cifar10": {}, "cifar100": {}},
)

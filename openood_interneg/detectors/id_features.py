"""The text space of methods that look at single ID image features (Mahalanobis, KNN)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.detectors.base import DetectorError
from openood_interneg.negatives.proxies import sample_id_images
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import IdImageSettings, SettingsError


def space(source: TextSource, settings: IdImageSettings) -> TextSpace:
    """The common text space, with N ID images per class: the ones that make image proxies.

    `extra["id_features"]`: (n, D) unit rows; `extra["id_labels"]`: (n,) int64 labels.

    Raises:
        SettingsError: without ID images.
    """
    if source.id_images is None:
        raise SettingsError("this method needs ID training images; give some")
    labels = np.asarray(source.id_images.labels)
    chosen = sample_id_images(labels, source.class_names, settings)
    common = source.build(settings)
    features = source.id_images.features(chosen).to(common.device)
    own = torch.as_tensor(labels[chosen], dtype=torch.int64, device=common.device)
    return replace(common, extra={"id_features": features, "id_labels": own})


def id_images(space: TextSpace, method: str) -> tuple[Tensor, Tensor]:
    """Unit ID image features (n, D) and their labels (n,) out of a text space.

    Raises:
        DetectorError: they are absent, not finite or of no use with the labels.
    """
    features, labels = space.extra.get("id_features"), space.extra.get("id_labels")
    if features is None or labels is None:
        raise DetectorError(f"{method} needs ID images: extra['id_features'], extra['id_labels']")
    if len(features) != len(labels) or features.shape[1] != space.labels.shape[1]:
        raise DetectorError(
            f"{len(labels)} ID labels for ID features of shape {tuple(features.shape)}; expected "
            f"(n, {space.labels.shape[1]})"
        )
    if not bool(torch.isfinite(features).all()):
        raise DetectorError("the ID image features contain NaN or infinity")
    present = torch.bincount(labels, minlength=len(space.labels))
    if len(present) > len(space.labels) or not bool(present.all()):
        raise DetectorError("the ID images must be of the labelled classes, at least one of each")
    return F.normalize(features, dim=1), labels

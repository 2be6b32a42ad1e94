"""The text space of methods that look at single ID images."""

import numpy as np
import pytest
import torch
from static_helpers import ID_NAMES, FakeBackbone, FakeSource, unit

from openood_interneg.detectors import id_features
from openood_interneg.detectors.knn import KNNSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.settings import SettingsError


class FakeImages:
    def __init__(self, classes, per_class):
        self.labels = np.arange(classes * per_class) % classes
        self.rows = unit(classes * per_class, FakeBackbone.embed_dim, seed=12)

    def features(self, indices):
        return self.rows[torch.as_tensor(indices)]


def test_id_image_space():
    images = FakeImages(len(ID_NAMES), 6)
    source = FakeSource(ID_NAMES, images)
    for name in ("mahalanobis", "clip_knn"):
        method = get_method(name)
        settings = method.make_settings({"images_per_class": 4, "proxy_select": "first"})
        found = source.space_for(method, settings)
        own = found.extra["id_labels"]
        assert torch.bincount(own).tolist() == [4] * len(ID_NAMES)
        first = [images.rows[np.flatnonzero(images.labels == c)[:4]] for c in range(len(ID_NAMES))]
        assert torch.equal(found.extra["id_features"], torch.cat(first))
        assert found.to("cpu").extra["id_labels"].dtype == torch.int64
        scores = method.make(settings).fit(found).step(images.rows[:3]).score
        assert bool(torch.isfinite(scores).all())


def test_id_images_are_asked_for():
    with pytest.raises(SettingsError, match="ID training images"):
        id_features.space(FakeSource(ID_NAMES), KNNSettings())

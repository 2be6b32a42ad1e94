"""Image proxies and base distances against loops; which ID images are looked at."""

import numpy as np
import pytest
import torch
from helpers import cosine, unit_rows

from openood_interneg.negatives.proxies import (
    ProxyError,
    base_cosine,
    image_proxies,
    sample_per_class,
)


def test_proxies_and_base_distance():
    """Eqs. 7 and 8."""
    images = unit_rows(12) * 3.0  # need not arrive normalised
    labels = torch.tensor([0, 1, 2] * 4)
    texts = unit_rows(3, seed=1)
    proxies = image_proxies(images, labels, 3)
    base = base_cosine(texts, proxies)
    for c in range(3):
        members = [images[i] / images[i].norm() for i in range(12) if labels[i] == c]
        mean = sum(members) / len(members)
        assert torch.allclose(proxies[c], mean / mean.norm(), atol=1e-6)
        assert float(base[c]) == pytest.approx(cosine(texts[c], mean), abs=1e-6)


class TestSampling:
    labels = np.array([0, 1, 0, 2, 1, 0, 2, 0, 2, 2, 9, -1])

    def test_first(self):
        assert sample_per_class(self.labels, 3, 2, select="first").tolist() == [0, 2, 1, 4, 3, 6]

    def test_random_is_seeded_and_within_the_class(self):
        a = sample_per_class(self.labels, 3, 2, seed=1)
        assert a.tolist() == sample_per_class(self.labels, 3, 2, seed=1).tolist()
        assert self.labels[a].tolist() == [0, 0, 1, 1, 2, 2]
        draws = {tuple(sample_per_class(self.labels, 3, 2, seed=s).tolist()) for s in range(20)}
        assert len(draws) > 5

    def test_a_class_does_not_depend_on_the_others(self):
        wide = np.concatenate([self.labels, [1, 1, 1]])
        a, b = (sample_per_class(x, 3, 2, seed=3) for x in (self.labels, wide))
        assert a[:2].tolist() == b[:2].tolist()

    def test_empty_class(self):
        with pytest.raises(ProxyError, match=r"class 1 \('dog'\) has no ID image"):
            sample_per_class([0, 0, 2], 3, 2, class_names=["cat", "dog", "fish"])

    def test_too_few(self):
        with pytest.warns(UserWarning, match="2 of 3 classes have fewer than 4"):
            chosen = sample_per_class(np.array([0, 0, 0, 0, 1, 2]), 3, 4)
        assert chosen.tolist() == [0, 1, 2, 3, 4, 5]


def test_proxies_refuse_nan():
    features = unit_rows(4)
    features[1, 2] = float("nan")
    with pytest.raises(ProxyError, match="NaN"):
        image_proxies(features, torch.tensor([0, 0, 1, 1]), 2)

"""What the tests of methods that remember the stream share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from openood_interneg.negatives.text_space import TextSpace

SIZE, CLASSES, NEGATIVES, SCALE = 24, 6, 31, 20.0


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.fixture
def space():
    return TextSpace(
        labels=unit(CLASSES, SIZE, seed=1),
        logit_scale=SCALE,
        negatives=unit(NEGATIVES, SIZE, seed=2),
        extra={"noise": unit(15, SIZE, seed=3)},
    )


@pytest.fixture
def stream(space):
    """Images near labels, near negatives, and in between, shuffled; (60, D)."""
    near_id = F.normalize(space.labels[torch.arange(20) % CLASSES] + 0.5 * unit(20, SIZE, seed=4))
    near_ood = F.normalize(space.negatives[torch.arange(20) % 3] + 0.5 * unit(20, SIZE, seed=5))
    between = F.normalize(space.labels[:20].repeat(4, 1)[:20] + space.negatives[:20])
    every = torch.cat([near_id, near_ood, between])
    return every[torch.randperm(60, generator=torch.Generator().manual_seed(6))]


def run(detector, features, batch):
    out = [detector.step(part) for part in features.split(batch)]
    return torch.cat([o.pred for o in out]), torch.cat([o.score for o in out])


def close(actual, expected, tolerance=2e-5):
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=0)


def blobs(space, spread=0.6, same=False):
    """(features, is_id) of 120 ID and 120 OOD images, shuffled."""
    toward = space.labels if same else space.negatives[:8]
    ids = F.normalize(space.labels[torch.arange(120) % CLASSES] + spread * unit(120, SIZE, seed=7))
    oods = F.normalize(toward[torch.arange(120) % len(toward)] + spread * unit(120, SIZE, seed=8))
    order = torch.randperm(240, generator=torch.Generator().manual_seed(9))
    return torch.cat([ids, oods])[order], (torch.arange(240) < 120)[order]


def auroc(detector, space, batch=32, **kind):
    features, is_id = blobs(space, **kind)
    detector.fit(space)
    return 100 * roc_auc_score(is_id.numpy(), run(detector, features, batch)[1].numpy())

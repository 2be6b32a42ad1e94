"""Every equation against a version written differently: loops, float64, probabilities."""

import math

import numpy as np
import pytest
import torch
from helpers import cosine, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from openood_interneg.detectors.scoring import (
    group_order,
    grouped_score,
    id_mass,
    logits,
    max_softmax,
)
from openood_interneg.evaluation.metrics import fpr_at_95_id_positive, ood_metrics


@pytest.mark.parametrize("groups", [1, 3, 7])
def test_score(groups):
    """Eqs. 6 and 11 with raw exponentials, group by group."""
    features, labels, negatives = unit_rows(9), unit_rows(4, seed=1), unit_rows(40, seed=2)
    s = 12.0
    order = group_order(40, groups)
    score = grouped_score(
        logits(features, labels, s), logits(features, negatives[order], s), groups
    )
    kept = 40 - 40 % groups
    permuted = (
        list(range(kept))
        if groups == 1
        else torch.randperm(kept, generator=torch.Generator().manual_seed(0)).tolist()
    )
    size = kept // groups
    for b in range(9):
        id_sum = sum(math.exp(s * cosine(features[b], e)) for e in labels)
        values = []
        for g in range(groups):
            members = permuted[g * size : (g + 1) * size]
            negative = sum(math.exp(s * cosine(features[b], negatives[j])) for j in members)
            values.append(id_sum / (id_sum + negative))
        assert float(score[b]) == pytest.approx(sum(values) / groups, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_negatives_does_not_change_an_ungrouped_score(seed):
    features, labels, negatives = unit_rows(5), unit_rows(3, seed=1), unit_rows(30, seed=2)
    a = grouped_score(logits(features, labels, 50), logits(features, negatives, 50), 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    b = grouped_score(logits(features, labels, 50), logits(features, negatives[order], 50), 1)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_score_falls_as_negatives_grow_and_is_stable_for_large_logits():
    features, labels, negatives = unit_rows(20), unit_rows(3, seed=1), unit_rows(50, seed=2)
    previous = torch.ones(20)
    for n in (0, 1, 10, 50):
        score = grouped_score(
            logits(features, labels, 1e4), logits(features, negatives[:n], 1e4), 1
        )
        assert bool(torch.isfinite(score).all())
        assert bool((score <= previous).all())
        previous = score


def test_id_mass_and_max_softmax():
    z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(z, dim=1)
    torch.testing.assert_close(max_softmax(z), p.max(dim=1).values)
    mass = id_mass(z[:, :2].logsumexp(1), z[:, 2:].logsumexp(1))
    torch.testing.assert_close(mass, p[:, :2].sum(1))


def test_metrics_by_counting():
    rng = np.random.Generator(np.random.PCG64(0))
    id_score, ood_score = rng.normal(1, 1, 300), rng.normal(0, 1, 211)
    label = rng.integers(0, 3, 300)
    pred = np.where(rng.random(300) < 0.8, label, (label + 1) % 3)
    m = ood_metrics(id_score, ood_score, pred, label)
    pairs = (id_score[:, None] > ood_score[None]).mean()
    assert m["AUROC"] == pytest.approx(100 * pairs, abs=1e-9)
    assert m["ACC"] == pytest.approx(100 * (pred == label).mean())
    # OOD positive: the lowest threshold that catches 95 % of OOD rejects that share of ID
    threshold = np.sort(ood_score)[math.ceil(0.95 * 211) - 1]
    assert m["FPR@95"] == pytest.approx(100 * (id_score <= threshold).mean())
    threshold = np.sort(id_score)[::-1][math.ceil(0.95 * 300) - 1]
    assert m["FPR@95(ID+)"] == pytest.approx(100 * (ood_score >= threshold).mean())
    is_ood = np.r_[np.zeros(300, int), np.ones(211, int)]
    assert fpr_at_95_id_positive(is_ood, np.r_[id_score, ood_score]) * 100 == pytest.approx(
        m["FPR@95(ID+)"]
    )


def test_metrics_refuse_nan_and_emptiness():
    good = np.zeros(3)
    with pytest.raises(ValueError, match="NaN"):
        ood_metrics(np.array([0.1, np.nan]), good, np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="at least one"):
        ood_metrics(good[:0], good, good[:0], good[:0])

"""Every equation against a version written differently: loops, float64, probabilities."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from openood_interneg.negatives.mining import (
    criterion_margin,
    deviation_degree,
    inter_modal,
    intra_modal,
    mine,
    quota,
    rank_chunks,
    select,
)
from openood_interneg.negatives.proxies import (
    ProxyError,
    base_cosine,
    image_proxies,
    sample_per_class,
)


def unit(n, d=8, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def cosine(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def test_proxies_and_base_distance():
    """Eqs. 7 and 8."""
    images = unit(12) * 3.0  # need not arrive normalised
    labels = torch.tensor([0, 1, 2] * 4)
    texts = unit(3, seed=1)
    proxies = image_proxies(images, labels, 3)
    base = base_cosine(texts, proxies)
    for c in range(3):
        members = [images[i] / images[i].norm() for i in range(12) if labels[i] == c]
        mean = sum(members) / len(members)
        assert torch.allclose(proxies[c], mean / mean.norm(), atol=1e-6)
        assert float(base[c]) == pytest.approx(cosine(texts[c], mean), abs=1e-6)


@pytest.mark.parametrize("classes", [1, 5])
def test_criterion_and_deviation(classes):
    """Eqs. 9 and 10, by distances d = 1 - cos."""
    texts, proxies, labels = unit(60), unit(classes, seed=1), unit(classes, seed=2)
    base = base_cosine(labels, proxies)
    margin = criterion_margin(texts, proxies, base)
    deviation = deviation_degree(texts, proxies, base)
    for j in range(60):
        gains = []
        for i in range(classes):
            d_base = 1 - cosine(labels[i], proxies[i])
            gains.append((1 - cosine(texts[j], proxies[i])) - d_base)
        assert bool(margin[j] < 0) == all(gain > 0 for gain in gains)
        assert float(deviation[j]) == pytest.approx(sum(gains), abs=1e-5)


def test_criterion_is_strict():
    proxies = torch.eye(2)
    base = torch.tensor([0.5, 0.5])
    on_the_line = torch.tensor([[0.5, 0.0]])
    assert float(criterion_margin(on_the_line, proxies, base)) == 0.0
    assert not bool(inter_modal(proxies, base)(on_the_line)[0])


@pytest.mark.parametrize("rule", ["index", "linear"])
@pytest.mark.parametrize("classes", [1, 10, 23])
def test_intra_modal_similarity(rule, classes):
    texts, labels = unit(30), unit(classes, seed=1)
    _, rank = intra_modal(labels, 0.95, rule)(texts)
    for j in range(30):
        cosines = sorted(cosine(texts[j], label) for label in labels)
        if rule == "index":
            expected = cosines[min(int(0.95 * classes), classes - 1)]
        else:
            expected = float(np.quantile(cosines, 0.95))
        assert float(-rank[j]) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 200), st.integers(0, 200))
def test_quota(limit, adjectives, nouns):
    a, n = quota(limit, adjectives, nouns)
    assert a <= adjectives and n <= nouns
    assert a + n == min(limit, adjectives + nouns)
    if adjectives + nouns > limit:
        assert a == math.floor(limit * adjectives / (adjectives + nouns))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 5))
def test_selection_does_not_depend_on_chunks(chunk, limit, seed):
    texts, proxies = unit(90, seed=seed), unit(3, seed=7)
    criterion = inter_modal(proxies, torch.full((3,), 0.4))
    index, features, passing = select(list(texts.split(chunk)), criterion, limit)
    passes, rank = criterion(texts)
    good = [i for i in range(90) if passes[i]]
    best = sorted(good, key=lambda i: (-float(rank[i]), i))[:limit]
    assert passing == len(good)
    assert index.tolist() == best
    assert torch.equal(features, texts[best])


def test_mined_texts_meet_the_criterion_and_the_quota():
    nouns, adjectives = unit(200), unit(50, seed=1)
    proxies, labels = unit(4, seed=2), unit(4, seed=3)
    base = base_cosine(labels, proxies) + 0.3
    words = [f"n{i}" for i in range(200)], [f"a{i}" for i in range(50)]
    rule = inter_modal(proxies, base)
    chunks = rank_chunks([nouns], rule), rank_chunks([adjectives], rule)
    mined = mine(words[0], chunks[0], words[1], chunks[1], 20, proxies, base)
    assert bool((mined.margin < 0).all())
    passing = mined.passing
    total = passing["noun"] + passing["adjective"]
    assert mined.parts_of_speech.count("adjective") == 20 * passing["adjective"] // total
    assert len(mined.words) == 20
    kinds = list(mined.parts_of_speech)
    assert kinds == sorted(kinds)  # adjectives first
    for kind in ("adjective", "noun"):
        d = [float(x) for x, k in zip(mined.deviation, kinds, strict=True) if k == kind]
        assert d == sorted(d, reverse=True)


def test_nothing_qualifies():
    proxies = torch.eye(2)
    none = torch.zeros(2)
    chunks = rank_chunks([torch.eye(2)[:1]], inter_modal(proxies, none))
    nothing = mine(["a"], chunks, [], [], 5, proxies, none)
    assert nothing.words == () and nothing.features.shape == (0, 2)


@pytest.mark.parametrize("groups", [1, 3, 7])
def test_score(groups):
    """Eqs. 6 and 11 with raw exponentials, group by group."""
    features, labels, negatives = unit(9), unit(4, seed=1), unit(40, seed=2)
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
    features, labels, negatives = unit(5), unit(3, seed=1), unit(30, seed=2)
    a = grouped_score(logits(features, labels, 50), logits(features, negatives, 50), 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    b = grouped_score(logits(features, labels, 50), logits(features, negatives[order], 50), 1)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_score_falls_as_negatives_grow_and_is_stable_for_large_logits():
    features, labels, negatives = unit(20), unit(3, seed=1), unit(50, seed=2)
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
    features = unit(4)
    features[1, 2] = float("nan")
    with pytest.raises(ProxyError, match="NaN"):
        image_proxies(features, torch.tensor([0, 0, 1, 1]), 2)


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

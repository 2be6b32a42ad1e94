"""Criteria, ranks, quota and selection against loops."""

import math

import numpy as np
import pytest
import torch
from helpers import cosine, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

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
from openood_interneg.negatives.proxies import base_cosine


@pytest.mark.parametrize("classes", [1, 5])
def test_criterion_and_deviation(classes):
    """Eqs. 9 and 10, by distances d = 1 - cos."""
    texts, proxies, labels = unit_rows(60), unit_rows(classes, seed=1), unit_rows(classes, seed=2)
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
    texts, labels = unit_rows(30), unit_rows(classes, seed=1)
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
    texts, proxies = unit_rows(90, seed=seed), unit_rows(3, seed=7)
    criterion = inter_modal(proxies, torch.full((3,), 0.4))
    index, features, passing = select(list(texts.split(chunk)), criterion, limit)
    passes, rank = criterion(texts)
    good = [i for i in range(90) if passes[i]]
    best = sorted(good, key=lambda i: (-float(rank[i]), i))[:limit]
    assert passing == len(good)
    assert index.tolist() == best
    assert torch.equal(features, texts[best])


def test_mined_texts_meet_the_criterion_and_the_quota():
    nouns, adjectives = unit_rows(200), unit_rows(50, seed=1)
    proxies, labels = unit_rows(4, seed=2), unit_rows(4, seed=3)
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

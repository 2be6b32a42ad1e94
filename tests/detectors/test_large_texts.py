"""Scores against many texts: block by block, once per batch, without a copy of the texts."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from openood_interneg.detectors import batch_logits, grouped, scoring
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.tins import TINS, TINSSettings
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings

DIM, CLASSES, MINED = 16, 5, 43


def space_of(mined=MINED, scale=10.0):
    labels = unit_rows(CLASSES, DIM, 1)
    proxies = F.normalize(labels + 0.4 * unit_rows(CLASSES, DIM, 2), dim=-1)
    return TextSpace(
        labels=labels,
        logit_scale=scale,
        negatives=unit_rows(mined, DIM, 3),
        proxies=proxies,
        base=(labels * proxies).sum(1),
    )


def in_small_blocks():
    """Blocks of a few images and texts, so that tiny data have several of each."""
    return mock.patch.multiple(scoring, ROWS=3, COLUMNS=4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 8),
    st.integers(0, 13),
    st.integers(0, 1000),
    st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_blocked_log_sum_is_that_of_all_texts_at_once(images, texts, seed, scale, dtype):
    features, rows = unit_rows(images, 6, seed).to(dtype), unit_rows(texts, 6, seed + 1)
    with in_small_blocks():
        found = scoring.log_sum(features, rows, scale, 2.0)
    assert found.shape == (images,) and found.dtype == torch.float64
    for h, value in zip(features.tolist(), found.tolist(), strict=True):
        terms = [scale / 2 * sum(map(math.prod, zip(h, e, strict=True))) for e in rows.tolist()]
        top = max(terms, default=0.0)
        total = math.fsum(math.exp(z - top) for z in terms)
        expected = top + math.log(total) if total else -math.inf
        # A cosine is as good as its largest terms, so a logit is good to a share of the scale.
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(1.0, scale))


def test_a_blocked_log_sum_loses_nothing_over_many_blocks():
    """Rounding after each of a thousand blocks would show in the sixth digit."""
    features, texts = unit_rows(20, DIM, 1), unit_rows(4000, DIM, 2)
    with in_small_blocks():
        found = scoring.log_sum(features, texts, 1.0)
    expected = (features.double() @ texts.double().t()).logsumexp(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("groups", [1, 4, 43])
def test_grouped_methods_score_in_blocks_as_in_one(groups):
    space, features = space_of(), unit_rows(11, DIM, 7)
    detector = NegLabel(NegLabelSettings(groups=groups)).fit(space)
    whole = detector.step(features)
    with in_small_blocks(), mock.patch.object(grouped, "KEPT", 3 * MINED):
        found = detector.step(features)
    order = scoring.group_order(MINED, groups)
    every = torch.cat([space.labels, space.negatives[order]]) @ features.t() * space.logit_scale
    mass = every.t().double().exp()
    own, others = mass[:, :CLASSES].sum(1), mass[:, CLASSES:].unflatten(1, (groups, -1)).sum(2)
    expected = (own[:, None] / (own[:, None] + others)).mean(dim=1).float()
    for scores in (whole, found):
        torch.testing.assert_close(scores.score, expected, atol=1e-6, rtol=0)
        assert torch.equal(scores.pred, every.t()[:, :CLASSES].argmax(dim=1))


def bank_detector(kind, turn=None, **values):
    turn = torch.linalg.qr(unit_rows(DIM, DIM, 9))[0]
    make = {InterNeg: InterNegSettings, TINS: TINSSettings}[kind]
    return kind(make(beta=0.6, seed=0, **values), lambda h, ids: h @ turn)


@pytest.mark.slow
@pytest.mark.parametrize("update", ["batch", "sample"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("capacity", [3, 500])
def test_a_bank_grows_alike_in_blocks(update, groups, capacity):
    features, runs = unit_rows(200, DIM, 4), []
    values = {"update": update, "groups": groups, "bank_capacity": capacity}
    for kept in (batch_logits.KEPT, 10 * (MINED + capacity)):  # ten images at a time
        detector = bank_detector(InterNeg, **values).fit(space_of())
        detector.watch(unit_rows(30, DIM, 5))
        with in_small_blocks(), mock.patch.object(batch_logits, "KEPT", kept):
            parts = [detector.step(part) for part in features.split(64)]
        score, gamma = (torch.cat([getattr(p, name) for p in parts]) for name in ("score", "gamma"))
        runs.append((score, gamma, detector.bank.features))
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert len(runs[0][2]) > 2


@pytest.mark.parametrize("kind", [InterNeg, TINS])
@pytest.mark.parametrize("update", ["batch", "sample"])
def test_an_admission_does_not_sum_over_the_mined_negatives_again(kind, update):
    more = {"buffer_capacity": 0} if kind is TINS else {}
    values = {"update": update, "groups": 1, "bank_capacity": 12}
    detector = bank_detector(kind, **values, **more).fit(space_of())
    with mock.patch.object(batch_logits, "log_sum", wraps=scoring.log_sum) as sums:
        for part in unit_rows(96, DIM, 4).split(32):
            detector.step(part)
    assert len(detector.bank) > 2 and sums.call_count == 3


@pytest.mark.parametrize("groups", [1, 4])
def test_a_batch_with_admissions_is_scored_as_by_itself_afterwards(groups):
    """What was added up column by column is what the whole softmax gives."""
    for kind, capacity in ((InterNeg, 500), (InterNeg, 6), (TINS, 6)):
        values = {"update": "batch", "groups": groups, "bank_capacity": capacity}
        detector = bank_detector(kind, **values).fit(space_of())
        for part in unit_rows(160, DIM, 4).split(32):
            found = detector.step(part).score
            texts = torch.cat([detector.space.negatives, detector.bank.features]).double()
            order = scoring.group_order(len(texts), groups)
            own = (10 * part.double() @ detector.space.labels.double().t()).exp().sum(1)
            runs = (10 * part.double() @ texts[order].t()).exp().unflatten(1, (groups, -1))
            others = runs.sum(2) if kind is InterNeg else CLASSES * runs.mean(2)
            expected = (own[:, None] / (own[:, None] + others)).mean(dim=1)
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
        assert len(detector.bank) > 2


@pytest.mark.parametrize("groups", [1, 4])
def test_the_negatives_are_not_copied(groups):
    space = space_of(mined=2000)
    detectors = [
        NegLabel(NegLabelSettings(groups=groups)),
        bank_detector(InterNeg, groups=groups, bank_capacity=20),
    ]
    for detector in detectors:
        detector.fit(space).step(unit_rows(8, DIM, 4))
        held = [v for v in vars(detector).values() if isinstance(v, torch.Tensor)]
        assert all(tensor.numel() <= 2020 for tensor in held)
        assert detector.space.negatives is space.negatives

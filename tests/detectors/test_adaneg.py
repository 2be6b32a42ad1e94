"""AdaNeg against slow versions written from the formulas, and its texts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_helpers import auroc, close, run

from openood_interneg.detectors.adaneg import AdaNeg, AdaNegSettings, pseudo_labels
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.scoring import group_order


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


class SlowAdaNeg:
    """Image by image, slot by slot, with every proxy written out."""

    def __init__(self, space, settings):
        self.e = space.labels.double().numpy()
        self.n = space.negatives.double().numpy()
        self.texts = np.concatenate([self.e, self.n])
        self.scale, self.o = space.logit_scale, settings
        self.order = group_order(len(self.n), settings.groups).numpy()
        slots = settings.capacity + 1
        self.memory = np.zeros((len(self.texts), slots, self.e.shape[1]))
        self.memory[:, 0] = self.texts
        self.entropy = np.zeros((len(self.texts), slots))
        self.pointer = np.ones(len(self.texts), dtype=int)
        self.window = [1, 0] * 100
        self.evicted = 0  # images whose entropy was NaN

    def uncertainty(self, p):
        if self.o.eviction == "half":
            p = p.astype(np.float16).astype(float)
            with np.errstate(divide="ignore", invalid="ignore"):
                return -(p * np.log(p)).sum()
        return -sum(q * math.log(q) for q in p if q > 0)

    def grouped(self, logits):
        z, y = logits[: len(self.e)], logits[len(self.e) :][self.order]
        groups = y.reshape(self.o.groups, -1)
        return np.mean([np.exp(z).sum() / (np.exp(z).sum() + np.exp(g).sum()) for g in groups])

    def insert(self, h, label, value):
        o = self.o
        if self.pointer[label] < o.capacity:
            slot = self.pointer[label]
            self.pointer[label] += 1
        elif o.eviction != "first_come" and (value < self.entropy[label]).any():
            slot = np.argsort(self.entropy[label], kind="stable")[-1]  # NaN comes last
            self.evicted += np.isnan(self.entropy[label, slot])
        else:
            return
        self.memory[label, slot], self.entropy[label, slot] = h, value

    def step(self, batch):
        o, classes = self.o, len(self.e)
        batch = batch.double().numpy()
        logits = [self.scale / o.tau * self.texts @ h for h in batch]
        static = [self.grouped(z) for z in logits]
        upper, lower = o.theta + o.gap * (1 - o.theta), o.theta - o.gap * o.theta
        if o.adaptive_gap:
            self.window += [1 for s in static if s > upper]
            self.window += [0 for s in static if s < lower]
            self.window = self.window[-o.gap_window :]
            r = sum(self.window) / len(self.window)
            if r > 0.5:
                lower = o.theta * (1 - r)
            elif r < 0.5:
                upper = o.theta + (1 - r) * (1 - o.theta)
        for h, z, s in zip(batch, logits, static, strict=True):
            if s > upper:
                side, offset = z[:classes], 0
            elif s < lower:
                side, offset = z[classes:], classes
            else:
                continue
            p = softmax(side)
            self.insert(h, side.argmax() + offset, self.uncertainty(p))
        preds, scores = [], []
        for h, z, s in zip(batch, logits, static, strict=True):
            adapted = []
            for memory in self.memory:
                weights = np.exp(-o.beta * (1 - memory @ h)) if o.sample_adaptive else 1
                v = (np.reshape(weights, (-1, 1)) * memory).sum(0)
                adapted.append(self.scale / o.tau * float(v @ h) / np.linalg.norm(v))
            adapted = np.array(adapted)
            scores.append(self.grouped(adapted) + o.weight * s)
            end = classes if o.prediction == "id" else None
            both = softmax(z[:end]) + o.weight * softmax(adapted[:end])
            preds.append(int(both[:classes].argmax()))
        return preds, scores


@pytest.mark.parametrize("sample_adaptive", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eviction": "first_come", "weight": 0.7},
        {"adaptive_gap": True, "gap": 0.1, "weight": 1.0, "prediction": "id", "groups": 1},
        {"adaptive_gap": True, "gap": 0.0, "gap_window": 200, "theta": 0.3},
        {"capacity": 1},
    ],
)
def test_adaneg_brute_force(space, stream, options, sample_adaptive):
    options = {"capacity": 3, "groups": 4, "gap": 0.2} | options
    settings = AdaNegSettings(sample_adaptive=sample_adaptive, **options)
    fast, slow = AdaNeg(settings).fit(space), SlowAdaNeg(space, settings)
    for batch in stream.split(16):
        pred, score = fast.step(batch)
        expected_pred, expected = slow.step(batch)
        close(score, expected)
        assert pred.tolist() == expected_pred
    used = int((slow.pointer > 1).sum())
    assert len(fast._memory) == used
    if settings.capacity > 1:
        assert used > 3  # the stream does fill memory, and does evict
        assert (slow.pointer == settings.capacity).sum() >= 2


def test_adaneg_in_half_precision_forgets_images_of_undefined_entropy_first(space, stream):
    """NaN replaces nothing, and is replaced as soon as a finite entropy below another comes."""
    steep = replace(space, logit_scale=22.0)
    settings = AdaNegSettings(capacity=3, groups=4, gap=0.0, eviction="half")
    fast, slow = AdaNeg(settings).fit(steep), SlowAdaNeg(steep, settings)
    for batch in stream.split(16):
        expected_pred, expected = slow.step(batch)
        pred, score = fast.step(batch)
        close(score, expected)
        assert pred.tolist() == expected_pred
    kept = fast.state_dict()["entropy"]
    assert slow.evicted > 0 and kept.isnan().any() and (kept > 0).any()
    resumed = AdaNeg(settings).fit(steep)
    resumed.load_state_dict(fast.state_dict())
    torch.testing.assert_close(resumed.state_dict()["entropy"], kept, equal_nan=True)
    close(resumed.step(stream[:16]).score, fast.step(stream[:16]).score)


def test_adaneg_evictions_differ(space, stream):
    scores = [
        run(AdaNeg(AdaNegSettings(capacity=2, gap=0.0, eviction=e)).fit(space), stream, 10)[1]
        for e in ("entropy", "first_come")
    ]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


@pytest.mark.parametrize("groups", [1, 4])
def test_adaneg_without_cache_is_neglabel(space, stream, groups):
    # gap = 1 asks for a score above 1 or below 0: nothing is ever cached.
    settings = AdaNegSettings(groups=groups, gap=1.0, weight=0.3)
    pred, score = run(AdaNeg(settings).fit(space), stream, 9)
    expected = NegLabel(NegLabelSettings(groups=groups)).fit(space).step(stream)
    torch.testing.assert_close(score, 1.3 * expected.score, atol=1e-6, rtol=0)
    assert torch.equal(pred, expected.pred)


def test_adaneg_modes_of_score(space, stream):
    scores = {
        mode: run(AdaNeg(AdaNegSettings(in_score=mode, weight=0.4)).fit(space), stream, 12)[1]
        for mode in ("combine", "adaptive", "static", "product")
    }
    torch.testing.assert_close(scores["combine"], scores["adaptive"] + 0.4 * scores["static"])
    torch.testing.assert_close(scores["product"], scores["adaptive"] * scores["static"])


def test_adaptive_gap_rules():
    score = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    # r = 1/2: fixed gap. r = 0.9: OOD below 0.05. r = 0.1: ID above 0.95.
    for share, ids, oods in ((0.5, 2, 2), (0.9, 2, 0), (0.1, 0, 2)):
        is_id, is_ood = pseudo_labels(score, 0.5, 0.5, share)
        assert (int(is_id.sum()), int(is_ood.sum())) == (ids, oods)


def test_adaneg_blobs(space):
    settings = AdaNegSettings(groups=1, theta=0.5, gap=0.5)
    good = auroc(AdaNeg(settings), space)
    assert good > 97
    assert abs(auroc(AdaNeg(settings), space, same=True) - 50) < 8


def test_adaneg_depends_on_batches_and_order(space, stream):
    settings = AdaNegSettings(capacity=4, gap=0.1)
    whole = run(AdaNeg(settings).fit(space), stream, 60)[1]
    single = run(AdaNeg(settings).fit(space), stream, 1)[1]
    assert (whole - single).abs().max() > 1e-3
    back = run(AdaNeg(settings).fit(space), stream.flip(0), 1)[1].flip(0)
    assert (back - single).abs().max() > 1e-3


def test_adaneg_needs_negatives(space):
    few = replace(space, negatives=space.negatives[:3])
    with pytest.raises(DetectorError, match="groups"):
        AdaNeg(AdaNegSettings(groups=5)).fit(few)


def test_adaneg_extreme_logits_stay_finite(space, stream):
    steep = replace(space, logit_scale=1e4)
    score = run(AdaNeg(AdaNegSettings(gap=0.1)).fit(steep), stream, 20)[1]
    assert bool(torch.isfinite(score).all())

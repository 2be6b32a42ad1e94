"""TANL against slow versions written from the formulas, and its texts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_helpers import CLASSES, NEGATIVES, auroc, close, run, unit

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.tanl import METHOD as TANL_METHOD
from openood_interneg.detectors.tanl import (
    TANL,
    TANLSettings,
    activation_aware_score,
    noise_images,
    otsu_threshold,
    tanl_space,
)
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.settings import SettingsError


class SlowTANL:
    def __init__(self, space, settings, order):
        self.e = space.labels.double().numpy()
        self.n = space.negatives.double().numpy()
        self.scale, self.o = space.logit_scale, settings
        noise = space.extra["noise"].double().numpy()
        rows = [self.activation(self.e[i]) for i in order]
        self.plus = rows[-settings.capacity :]
        self.minus = [self.activation(g) for g in noise][-settings.capacity :]
        ranking = self.rank(np.mean(self.minus, 0) - np.mean(self.plus, 0))
        self.scores = [self.score(h, ranking) for h in [*self.e, *noise]]

    def logits(self, h):
        return self.scale / self.o.tau * self.e @ h, self.scale / self.o.tau * self.n @ h

    def activation(self, h):
        z, y = self.logits(h)
        return np.exp(y) / (np.exp(z).sum() + np.exp(y).sum())

    def rank(self, difference):
        return np.argsort(-difference, kind="stable")[: self.o.beta]

    def score(self, h, ranking):
        z, y = self.logits(h)
        mass, y = np.exp(z).sum(), y[ranking]
        if self.o.gamma == 0:
            ends = [len(y)]
        else:
            ends = [min(k + self.o.gamma, len(y)) for k in range(0, len(y), self.o.gamma)]
        return np.mean([mass / (mass + np.exp(y[:k]).sum()) for k in ends])

    def threshold(self):
        scores = np.array(self.scores)
        spread = []
        for step in range(100):
            high, low = scores[scores >= step / 100], scores[scores < step / 100]
            if len(high) == 0 or len(low) == 0:
                spread.append(math.inf)
            else:
                spread.append((len(high) * high.var() + len(low) * low.var()) / len(scores))
        best = [i for i, s in enumerate(spread) if math.isclose(s, min(spread), rel_tol=1e-9)]
        return best[len(best) // 2] / 100

    def step(self, batch):
        o = self.o
        batch = batch.double().numpy()
        rows = [self.activation(h) for h in batch]
        plus, minus = np.mean(self.plus, 0), np.mean(self.minus, 0)
        ranking = self.rank(minus - plus)
        first = [self.score(h, ranking) for h in batch]
        self.scores = (self.scores + first)[-o.score_capacity :]
        theta = self.threshold()
        good = [a for a, s in zip(rows, first, strict=True) if s > theta + o.gap * (1 - theta)]
        bad = [a for a, s in zip(rows, first, strict=True) if s < theta - o.gap * theta]
        if good:
            plus = o.alpha * plus + (1 - o.alpha) * np.mean(good, 0)
        if bad:
            minus = o.alpha * minus + (1 - o.alpha) * np.mean(bad, 0)
        ranking = self.rank(minus - plus)
        self.plus = (self.plus + good)[-o.capacity :]
        self.minus = (self.minus + bad)[-o.capacity :]
        return [self.score(h, ranking) for h in batch], theta


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0, "gamma": 1},
        {"alpha": 0.0, "gamma": 0, "capacity": 4},
        {"alpha": 0.95, "gamma": 2, "gap": 0.2},
        {"alpha": 1.0, "gamma": 4, "score_capacity": 40},
    ],
)
def test_tanl_brute_force(space, stream, options):
    settings = TANLSettings(**({"beta": 9, "capacity": 12, "gap": 0.3, "seed": 3} | options))
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(3)).tolist()
    fast, slow = TANL(settings).fit(space), SlowTANL(space, settings, order)
    for batch in stream.split(16):
        expected, _ = slow.step(batch)
        pred, score = fast.step(batch)
        close(score, expected)
        assert torch.equal(pred, (batch @ space.labels.t()).argmax(1))
    assert len(fast._id) == len(slow.plus)
    assert len(fast._ood) == len(slow.minus)


@pytest.mark.parametrize("seed", range(6))
def test_otsu_against_the_definition(seed):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.beta(2, 12, 70), rng.beta(9, 2, 40 * (seed % 3) + 1)])
    slow = SlowTANL.__new__(SlowTANL)
    slow.scores = scores.tolist()
    assert otsu_threshold(torch.from_numpy(scores)) == slow.threshold()


def test_otsu_of_one_class_is_the_middle():
    assert otsu_threshold(torch.full((5,), 0.999)) == 0.5


def test_otsu_ties_take_the_middle():
    # Every threshold from 0.21 to 0.80 separates the two values.
    assert otsu_threshold(torch.tensor([0.2, 0.2, 0.805, 0.805])) == pytest.approx(0.51)


def test_tanl_with_all_texts_is_the_plain_mass(space, stream):
    plain = NegLabel(NegLabelSettings(groups=1)).fit(space).step(stream).score
    for beta in (NEGATIVES, 10 * NEGATIVES):
        settings = TANLSettings(gamma=0, beta=beta, alpha=0.3)
        score = run(TANL(settings).fit(space), stream, 13)[1]
        torch.testing.assert_close(score, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gamma", [1, 3, 7, 50])
def test_activation_aware_score_loop(gamma):
    ids, negatives = 5 * torch.randn(4, 6).double(), 5 * torch.randn(4, 20).double()
    expected = []
    for z, y in zip(ids, negatives, strict=True):
        terms, k = [], gamma
        while True:
            mass = z.exp().sum()
            terms.append(mass / (mass + y[: min(k, 20)].exp().sum()))
            if k >= 20:
                break
            k += gamma
        expected.append(torch.stack(terms).mean())
    torch.testing.assert_close(activation_aware_score(ids, negatives, gamma), torch.stack(expected))


def test_tanl_is_transductive_only_with_alpha_below_one(space, stream):
    history, probe = stream[:30], stream[30:31]
    for alpha, same in ((1.0, True), (0.0, False)):
        scores = []
        for company in (stream[31:45], stream[45:60]):
            detector = TANL(TANLSettings(beta=4, gap=0.0, alpha=alpha, gamma=1)).fit(space)
            run(detector, history, 10)
            scores.append(detector.step(torch.cat([probe, company])).score[0].item())
        assert (abs(scores[0] - scores[1]) < 1e-7) == same
    assert TANL_METHOD.transductive


def test_tanl_depends_on_batch_size(space, stream):
    settings = TANLSettings(beta=4, gap=0.1)
    scores = [run(TANL(settings).fit(space), stream, size)[1] for size in (1, 20)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_tanl_blobs(space):
    settings = TANLSettings(beta=8, gap=0.2, alpha=0.0)
    assert auroc(TANL(settings), space) > 97
    assert abs(auroc(TANL(settings), space, same=True) - 50) < 8


def test_tanl_refuses(space):
    with pytest.raises(DetectorError, match="noise"):
        TANL().fit(replace(space, extra={}))
    with pytest.raises(DetectorError, match="negative"):
        TANL().fit(replace(space, negatives=space.negatives[:0]))
    with pytest.raises(SettingsError, match="alpha"):
        TANLSettings(alpha=1.5)


def test_noise_images():
    noise = noise_images(16, seed=2)
    assert noise.shape == (15, 3, 16, 16)
    assert noise.dtype == torch.float32
    assert noise.min() >= 0 and noise.max() <= 1
    assert torch.equal(noise, noise_images(16, seed=2))
    assert not torch.equal(noise, noise_images(16, seed=3))
    for first in (0, 6, 9):  # stretched kinds touch both ends
        kind = noise[first : first + 3]
        assert kind.min() == 0 and kind.max() == 1
    assert set(noise[12:].unique().tolist()) == {0.0, 1.0}


def test_tanl_space(tiny, tmp_path):
    backbone = tiny
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"word{i}" for i in range(25)))
    source = TextSpaceBuilder(backbone, ["cat", "dog", "ship"])
    method = get_method("tanl")
    settings = method.make_settings({"corpus": str(words)})
    space = source.space_for(method, settings)
    assert space.negatives.shape == (25, 64)
    expected = backbone.encode_image(noise_images(32, 0))
    torch.testing.assert_close(space.extra["noise"], expected)
    assert method.space is tanl_space
    score = method.make(settings).fit(space).step(unit(8, 64)).score
    assert bool(torch.isfinite(score).all())

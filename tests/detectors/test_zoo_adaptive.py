"""CoVer, AdaNeg and TANL against slow versions written from the formulas, in float64."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.metrics import roc_auc_score

from openood_interneg.detectors.adaneg import METHOD as ADANEG
from openood_interneg.detectors.adaneg import AdaNeg, AdaNegSettings, pseudo_labels
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.cover import METHOD as COVER
from openood_interneg.detectors.cover import CoVer, CoVerSettings
from openood_interneg.detectors.mcm import MCM
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.scoring import group_order
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
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.factory import load_backbone

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


# ---- CoVer ---------------------------------------------------------------------------------


def test_cover_brute_force(space):
    views = unit(5, 7, SIZE, seed=10)
    detector = CoVer(CoVerSettings(tau=0.3)).fit(space)
    pred, score = detector.step(views)
    labels = space.labels.double().numpy()
    for image in range(7):
        confidences = []
        for view in views[:, image].double().numpy():
            logits = [float(view @ e) / 0.3 for e in labels]
            total = sum(math.exp(z) for z in logits)
            confidences.append(max(math.exp(z) / total for z in logits))
        assert score[image].item() == pytest.approx(sum(confidences) / 5, abs=1e-6)
        cosines = [float(views[0, image].double().numpy() @ e) for e in labels]
        assert pred[image].item() == int(np.argmax(cosines))


@pytest.mark.parametrize("leading", [False, True])
def test_cover_of_one_view_is_mcm(space, stream, leading):
    views = stream[None] if leading else stream
    ours = CoVer().fit(space).step(views)
    mcm = MCM().fit(space).step(stream)
    assert torch.equal(ours.pred, mcm.pred)
    torch.testing.assert_close(ours.score, mcm.score)


def test_cover_does_not_depend_on_batches(space):
    views = unit(3, 12, SIZE, seed=11)
    whole = CoVer().fit(space).step(views).score
    parts = [CoVer().fit(space).step(part).score for part in views.split(5, dim=1)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_cover_blobs(space):
    assert auroc(CoVer(CoVerSettings(tau=0.05)), space) > 85
    assert abs(auroc(CoVer(CoVerSettings(tau=0.05)), space, same=True) - 50) < 8


def test_cover_refuses(space):
    detector = CoVer()
    with pytest.raises(DetectorError, match="not fitted"):
        detector.step(unit(2, SIZE))
    detector.fit(space)
    with pytest.raises(DetectorError, match="shape"):
        detector.step(unit(2, 3, SIZE + 1))
    views = unit(2, 3, SIZE)
    views[1, 1, 0] = float("nan")
    with pytest.raises(DetectorError, match="NaN"):
        detector.step(views)
    with pytest.raises(SettingsError, match="recommended13"):
        CoVerSettings(views="some")


# ---- AdaNeg --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("make", ["adaneg", "tanl"])
def test_reset_and_state(space, stream, make):
    def fresh():
        if make == "adaneg":
            settings = AdaNegSettings(capacity=3, gap=0.1, adaptive_gap=True, groups=4)
            return AdaNeg(settings).fit(space)
        return TANL(TANLSettings(beta=9, capacity=12, gap=0.2, alpha=0.5)).fit(space)

    detector = fresh()
    whole = run(detector, stream, 10)[1]
    detector.reset()
    assert torch.equal(run(detector, stream, 10)[1], whole)
    assert torch.equal(run(fresh().fit(space), stream, 10)[1], whole)

    first = fresh()
    run(first, stream[:30], 10)
    state = {k: v.clone() for k, v in first.state_dict().items()}
    second = fresh()
    second.load_state_dict(state)
    torch.testing.assert_close(run(second, stream[30:], 10)[1], whole[30:], atol=1e-6, rtol=0)
    for name, value in first.state_dict().items():  # the copy is not shared
        assert torch.equal(value, state[name])
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, run_to_end(fresh(), stream)[name])
    with pytest.raises(DetectorError, match="lacks"):
        second.load_state_dict({})
    other = replace(space, negatives=unit(12, SIZE, seed=12))
    small = type(first)(replace(first.settings, capacity=2)).fit(other)
    with pytest.raises(DetectorError, match="stored"):
        small.load_state_dict(state)


def run_to_end(detector, stream):
    run(detector, stream, 10)
    return detector.state_dict()


def test_adaneg_depends_on_batches_and_order(space, stream):
    settings = AdaNegSettings(capacity=4, gap=0.1)
    whole = run(AdaNeg(settings).fit(space), stream, 60)[1]
    single = run(AdaNeg(settings).fit(space), stream, 1)[1]
    assert (whole - single).abs().max() > 1e-3
    back = run(AdaNeg(settings).fit(space), stream.flip(0), 1)[1].flip(0)
    assert (back - single).abs().max() > 1e-3


def test_refused_batch_leaves_no_trace(space, stream):
    for detector in (AdaNeg(AdaNegSettings(gap=0.1)), TANL(TANLSettings(beta=5))):
        detector.fit(space)
        before = {k: v.clone() for k, v in detector.state_dict().items()}
        bad = stream.clone()
        bad[3, 2] = float("inf")
        with pytest.raises(DetectorError, match="feature 3"):
            detector.step(bad)
        for name, value in detector.state_dict().items():
            assert torch.equal(value, before[name])


def test_adaneg_needs_negatives(space):
    few = replace(space, negatives=space.negatives[:3])
    with pytest.raises(DetectorError, match="groups"):
        AdaNeg(AdaNegSettings(groups=5)).fit(few)


def test_adaneg_extreme_logits_stay_finite(space, stream):
    steep = replace(space, logit_scale=1e4)
    score = run(AdaNeg(AdaNegSettings(gap=0.1)).fit(steep), stream, 20)[1]
    assert bool(torch.isfinite(score).all())


# ---- TANL ----------------------------------------------------------------------------------


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


def test_tanl_space(golden, tmp_path):
    backbone = load_backbone(golden / "tiny_clip.safetensors")
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


# ---- the table -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ADANEG, COVER, TANL_METHOD], ids=lambda m: m.name)
def test_rows_and_presets(method):
    assert get_method(method.name) is method
    for preset in method.presets.values():
        method.make_settings(preset)


@pytest.mark.parametrize("name", ["cover", "adaneg", "tanl"])
def test_yaml(name):
    path = Path(__file__).parents[2] / "configs" / "postprocessors" / f"{name}.yml"
    block = yaml.safe_load(path.read_text())["postprocessor"]
    assert list(block) == ["name", "APS_mode", "postprocessor_args", "postprocessor_sweep"]
    assert block["name"] == name and block["APS_mode"] is False
    method = get_method(name)
    args = block["postprocessor_args"]
    assert method.make_settings(args) == method.make_settings()
    for key, values in block["postprocessor_sweep"].items():
        for value in values:
            method.make_settings(args | {key.removesuffix("_list"): value})
    # OpenOOD casts command-line values to the type in the file: a float needs its dot there.
    plain = as_mapping(method.make_settings())
    assert all(type(args[key]) is type(plain[key]) for key in args)

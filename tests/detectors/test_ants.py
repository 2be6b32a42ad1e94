"""ANTS against slow versions written from the formulas, and its texts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from trained_helpers import (
    CLASSES,
    SCALE,
    SIZE,
    blob,
    close,
    run,
    unit,
)

from openood_interneg.data.image_ids import image_ids
from openood_interneg.detectors.ants import ANTS, ANTSSettings, far_threshold
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.scoring import group_order
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError


class SlowANTS:
    def __init__(self, prompt_space, settings):
        self.space, self.o = prompt_space, settings
        self.e = prompt_space.labels.double().numpy()
        self.captions = {}
        offsets, rows = prompt_space.extra["caption_offsets"], prompt_space.extra["caption_rows"]
        for i, key in enumerate(prompt_space.extra["caption_keys"].tolist()):
            self.captions[key] = rows[offsets[i] : offsets[i + 1]].tolist()
        self.far, self.near, self.wait = [], {}, []
        self.theta, self.scores, self.pred = settings.theta, [], []
        self.rounds = self.batches = 0
        self.history = ([], [])

    def mass(self, h, texts, length):
        groups = max(len(texts) // length, 1)
        order = group_order(len(texts), groups).numpy()
        z = np.exp(SCALE * self.e @ h).sum()
        y = np.exp(SCALE * texts[order] @ h).reshape(groups, -1).sum(1)
        return float(np.mean(z / (z + y)))

    def step(self, batch, ids):
        o, extra = self.o, self.space.extra
        batch = batch.double().numpy()
        negatives = self.space.negatives.double().numpy()
        self.batches += 1
        static = [self.mass(h, negatives, o.group_length) for h in batch]
        self.pred += [int((self.e @ h).argmax()) for h in batch]
        self.scores += static
        self.wait += [k for k, s in zip(ids.tolist(), static, strict=True) if s < self.theta]
        if self.rounds < o.rounds and len(self.wait) > o.round_size:
            counts = [0] * 10
            for s in self.scores:
                counts[min(int(s * 10), 9)] += 1
            steps = [abs(b - a) for a, b in itertools.pairwise(counts)]
            edge = (steps.index(max(steps)) + 1) / 10
            below = [s for s in self.scores if s < edge]
            if below:
                self.theta = float(np.percentile(below, 100 * o.eta))
            new = []
            for key in self.wait:
                for row in self.captions[key]:
                    new += [row] if row not in new else []
            self.far = (new + self.far)[-o.far_capacity :]
            self.wait, self.rounds = [], self.rounds + 1
        if self.batches >= 10 and (self.batches - 10) % 40 == 0:
            count = [(-self.pred.count(c), c) for c in range(len(self.e)) if c in self.pred]
            top = [c for _, c in sorted(count)[: o.frequent]]
            self.near = {c: 0 for c in [*[c for c in self.near if c in top], *top]}
        offsets, rows = extra["lookalike_offsets"], extra["lookalike_rows"]
        near = []
        for c in self.near:
            near += [r for r in rows[offsets[c] : offsets[c + 1]].tolist() if r not in near]
        out, long = [], 10 * o.group_length
        far_texts = extra["caption_texts"].double().numpy()[self.far]
        near_texts = extra["lookalike_texts"].double().numpy()[near]
        scored = []
        for h, s in zip(batch, static, strict=True):
            far = far_long = close_by = close_long = s
            if self.far:
                many = len(self.far) > long
                far = self.mass(h, far_texts, o.group_length if many else len(far_texts))
                far_long = self.mass(h, far_texts, long if many else len(far_texts))
            if near:
                close_by = self.mass(h, near_texts, o.group_length)
                close_long = self.mass(h, np.tile(near_texts, (10, 1)), long)
            scored.append((far, close_by))
            self.history[0].append(far_long)
            self.history[1].append(close_long)
        a, b = (1 - np.mean(h) for h in self.history)
        for far, close_by in scored:
            share = {"ada": a / (a + b), "far_only": 1.0, "near_only": 0.0}[o.in_score]
            out.append(share * far + (1 - share) * close_by)
        return out


@pytest.fixture(scope="module")
def ants_stream():
    """(prompt_space, features, ids): 240 images, half near labels, with three captions each."""
    labels, negatives = unit(CLASSES, SIZE, seed=1), unit(37, SIZE, seed=2)
    texts, near = unit(90, SIZE, seed=3), unit(14, SIZE, seed=4)
    ids, oods = blob(labels, 5, 120), blob(texts[:30], 6, 120)
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(240, generator=generator)
    rows = torch.randint(90, (240, 3), generator=generator)
    rows[120:, 0] = torch.arange(120) % 30  # an OOD image is captioned rightly
    lists = [torch.tensor([c * 2, c * 2 + 1, 10 + c % 4]) for c in range(CLASSES)]
    extra = {
        "caption_keys": torch.arange(240) * 5,
        "caption_offsets": torch.arange(0, 721, 3),
        "caption_rows": rows.flatten(),
        "caption_texts": texts,
        "lookalike_offsets": torch.arange(0, 3 * CLASSES + 1, 3),
        "lookalike_rows": torch.cat(lists),
        "lookalike_texts": near,
    }
    prompt_space = TextSpace(labels=labels, logit_scale=SCALE, negatives=negatives, extra=extra)
    return prompt_space, torch.cat([ids, oods])[order], (torch.arange(240) * 5)[order]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_score": "far_only", "eta": 0.8},
        {"in_score": "near_only"},
        {"group_length": 3, "far_capacity": 35, "rounds": 3},
    ],
)
def test_ants_brute_force(ants_stream, options):
    prompt_space, features, ids = ants_stream
    options = {"group_length": 6, "round_size": 25, "frequent": 3} | options
    settings = ANTSSettings(**options)
    fast, slow = ANTS(settings).fit(prompt_space), SlowANTS(prompt_space, settings)
    for f, k in zip(features.split(12), ids.split(12), strict=True):
        expected = torch.tensor(slow.step(f, k), dtype=torch.float64)
        close(fast.step(f, k).score.double(), expected, 2e-5)
    if settings.in_score != "near_only":
        assert len(fast._waiting) == (len(slow.wait) if slow.rounds < settings.rounds else 0)
        assert fast._far_rows == slow.far and slow.rounds >= 2
        assert fast._theta == pytest.approx(slow.theta, abs=1e-6)
    if settings.in_score != "far_only":
        assert fast._near_classes == list(slow.near)


def test_ants_state(ants_stream):
    prompt_space, features, ids = ants_stream
    settings = ANTSSettings(group_length=6, round_size=25, frequent=3)
    detector = ANTS(settings).fit(prompt_space)
    whole = run(detector, features, ids, 12)
    detector.reset()
    assert torch.equal(run(detector, features, ids, 12), whole)
    first = ANTS(settings).fit(prompt_space)
    run(first, features[:132], ids[:132], 12)
    second = ANTS(settings).fit(prompt_space)
    second.load_state_dict(first.state_dict())
    close(run(second, features[132:], ids[132:], 12), whole[132:])
    for name, value in detector.state_dict().items():
        close(second.state_dict()[name].double(), value.double())
    with pytest.raises(DetectorError, match="lacks"):
        second.load_state_dict({})
    other = replace(prompt_space, labels=prompt_space.labels[:3])
    with pytest.raises(DetectorError, match="another"):
        ANTS(settings).fit(other).load_state_dict(first.state_dict())


@pytest.mark.parametrize("options", [{"rounds": 2}, {"in_score": "near_only"}])
def test_ants_keeps_nothing_of_images_that_nobody_asks_for_any_more(ants_stream, options):
    prompt_space, features, ids = ants_stream
    settings = ANTSSettings(group_length=6, round_size=25, **options)
    detector = ANTS(settings).fit(prompt_space)
    sizes = []
    for _ in range(3):
        run(detector, features, ids, 12)
        sizes.append(sum(len(detector.state_dict()[k]) for k in ("scores", "waiting")))
    assert sizes == [0, 0, 0]
    assert int(detector.state_dict()["counts"].sum()) == 3 * len(features)


def test_ants_depends_on_batches_and_beats_its_start(ants_stream):
    prompt_space, features, ids = ants_stream
    settings = ANTSSettings(group_length=6, round_size=25, in_score="far_only")
    scores = [run(ANTS(settings).fit(prompt_space), features, ids, size) for size in (12, 40)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3
    # The caption of an OOD image names it, so the second half is told apart well.
    truth = (ids < 600).numpy()
    assert roc_auc_score(truth[120:], scores[0][120:].numpy()) > 0.9
    nobody = ANTS(replace(settings, rounds=0)).fit(prompt_space)
    plain = NegLabel(NegLabelSettings(groups=6)).fit(prompt_space).step(features).score
    close(run(nobody, features, ids, 12), plain)


def test_ants_of_one_distribution_is_chance(ants_stream):
    prompt_space, _, ids = ants_stream
    both = torch.cat([blob(prompt_space.labels, 8, 120), blob(prompt_space.labels, 9, 120)])
    order = torch.randperm(240, generator=torch.Generator().manual_seed(3))
    settings = ANTSSettings(group_length=6, round_size=25)
    score = run(ANTS(settings).fit(prompt_space), both[order], ids, 12)
    assert abs(roc_auc_score((order < 120).numpy(), score.numpy()) - 0.5) < 0.1


def test_ants_refuses_without_a_trace(ants_stream):
    prompt_space, features, ids = ants_stream
    detector = ANTS(ANTSSettings(group_length=6)).fit(prompt_space)
    before = detector.state_dict()
    with pytest.raises(DetectorError, match="images have no line"):
        detector.step(features[:40], ids[:40] + 1)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name])


def test_far_threshold():
    scores = torch.tensor([0.05, 0.06, 0.07, 0.08, 0.95])
    assert far_threshold(scores, 0.5, 0.8) == pytest.approx(0.065)
    assert far_threshold(torch.tensor([0.95]), 0.5, 0.8) == 0.8


def test_ants_space(backbone, source, words, tmp_path):
    far, near = tmp_path / "far.txt", tmp_path / "near.txt"
    far.write_text("img0\tA bee.|a lamp\nimg1\ta lamp.\n")
    near.write_text("Tabby Cat\tocelot|lynx\nship\tferry\n")
    method = get_method("ants")
    values = {"corpus": words, "num_negatives": 12, "captions": str(far), "lookalikes": str(near)}
    settings = method.make_settings(values)
    prompt_space = source.space_for(method, settings)
    assert prompt_space.extra["caption_texts"].shape == (
        2,
        64,
    )  # full stops go, "a lamp" is one text
    close(prompt_space.extra["lookalike_texts"], backbone.encode_text(["ocelot", "lynx", "ferry"]))
    assert prompt_space.extra["lookalike_offsets"].tolist() == [0, 0, 0, 2, 3]
    detector = method.make(settings).fit(prompt_space)
    assert detector.step(unit(2, 64), image_ids(["img1", "img0"])).score.shape == (2,)
    with pytest.raises(SettingsError, match="lookalikes is 'none'"):
        settings = method.make_settings(values | {"lookalikes": "none"})
        source.space_for(method, settings)
    only = method.make_settings(values | {"lookalikes": "none", "in_score": "far_only"})
    assert "lookalike_texts" not in source.space_for(method, only).extra
    near.write_text("horse\tdonkey\n")
    with pytest.raises(SettingsError, match="class names"):
        source.space_for(method, method.make_settings(values | {"eta": 0.4}))

"""Bank and stream: properties, and Algorithm 1 line by line."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.evaluation.protocols import FeatureSet, mixed_order, run_mixed, run_openood
from openood_interneg.negatives.text_space import TextSpace, TextSpaceError
from openood_interneg.settings import InterNegSettings, SettingsError

D, C, M = 12, 4, 30


def unit(n, seed=0, d=D):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_space(scale=9.0, negatives=M):
    labels = unit(C, 1)
    proxies = F.normalize(labels + 0.4 * unit(C, 2), dim=-1)
    base = (labels * proxies).sum(1)
    return TextSpace(
        labels=labels,
        logit_scale=scale,
        negatives=unit(M, 3)[:negatives],
        proxies=proxies,
        base=base,
        image_base=base - 0.1,
    )


def rotate(features, ids):
    """A stand-in for inversion: a fixed function of (h, key)."""
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9)))[0]
    shift = torch.stack([unit(1, int(k) + 50)[0] for k in ids])
    return F.normalize(features @ turn.to(features.dtype) + 0.3 * shift.to(features.dtype), dim=-1)


def detector(inverter=rotate, space=None, **values):
    defaults = dict(beta=0.5, bank_capacity=15, update="sample")
    return InterNeg(InterNegSettings(**(defaults | values)), inverter).fit(space or make_space())


def stream(n=90, seed=4):
    near = F.normalize(make_space().labels[torch.arange(n) % C] + 0.5 * unit(n, seed), dim=-1)
    mixed = torch.where((torch.arange(n) % 2 == 0)[:, None], near, unit(n, seed + 1))
    return mixed, torch.arange(n)


def run(model, features, ids, batch):
    model.reset()
    parts = [
        model.step(features[i : i + batch], ids[i : i + batch])
        for i in range(0, len(features), batch)
    ]
    return torch.cat([p.pred for p in parts]), torch.cat([p.score for p in parts])


def algorithm_1(features, ids, space, config, inverter):
    """The paper's Algorithm 1 in plain Python floats."""
    s = space.logit_scale / config.tau
    texts = space.negatives.double().tolist()
    labels, proxies = space.labels.double().tolist(), space.proxies.double().tolist()
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    base = [dot(e, p) for e, p in zip(labels, proxies, strict=True)]
    bank, scores = [], []

    def score(h):
        id_sum = sum(math.exp(s * dot(h, e)) for e in labels)
        negatives = texts + [e for _, e in bank]
        if config.groups == 1:
            groups = [negatives]
        else:
            kept = len(negatives) - len(negatives) % config.groups
            order = torch.randperm(kept, generator=torch.Generator().manual_seed(0)).tolist()
            size = kept // config.groups
            groups = [
                [negatives[j] for j in order[g * size : (g + 1) * size]]
                for g in range(config.groups)
            ]
        mass = [id_sum / (id_sum + sum(math.exp(s * dot(h, e)) for e in group)) for group in groups]
        return sum(mass) / len(mass)

    for row, key in zip(features, ids, strict=True):
        h = row.double().tolist()
        value = score(h)
        if value < config.beta:
            e = inverter(row[None].double(), [key])[0].tolist()
            distances = [(1 - dot(e, p)) - (1 - b) for p, b in zip(proxies, base, strict=True)]
            if all(d > 0 for d in distances):
                bank.append((sum(distances), e))
                bank.sort(key=lambda pair: -pair[0])
                del bank[config.bank_capacity :]
                value = score(h)
        scores.append(value)
    return scores, bank


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("capacity", [4, 1000])
def test_sample_updates_follow_algorithm_1(groups, capacity):
    features, ids = stream()
    model = detector(groups=groups, bank_capacity=capacity)
    expected, bank = algorithm_1(
        features, ids, model.space, model.settings, lambda h, k: rotate(h, torch.tensor(k))
    )
    for batch in (1, 7, 64, 90):
        _, score = run(model, features, ids, batch)
        torch.testing.assert_close(
            score.double(), torch.tensor(expected).double(), atol=2e-6, rtol=0
        )
        assert len(model.bank) == len(bank)
        torch.testing.assert_close(
            model.bank.features, torch.tensor([e for _, e in bank]), atol=1e-5, rtol=0
        )
    assert len(bank) > 0 and (capacity > 4) == (len(bank) > 4)


def test_batch_updates_follow_the_authors_code():
    """Score, gate, invert, merge, score the whole batch again."""
    features, ids = stream()
    model = detector(update="batch")
    space, config = model.space, model.settings
    every = []
    for begin in range(0, 90, 16):
        h, k = features[begin : begin + 16], ids[begin : begin + 16]
        pred, score = model.step(h, k)

        def score_with(texts, h=h):
            z = torch.cat([space.labels, space.negatives, *texts]) @ h.double().t().float()
            p = torch.softmax(space.logit_scale * z.t(), dim=1)
            return p[:, :C].sum(1)

        top = [e for _, e in sorted(every, key=lambda pair: -pair[0])][: config.bank_capacity]
        before = score_with([torch.stack(top)] if top else [])
        gated = before < config.beta
        for e in rotate(h[gated], k[gated]):
            gaps = space.base - space.proxies @ e
            if bool((gaps > 0).all()):
                every.append((float(gaps.sum()), e))
        top = [e for _, e in sorted(every, key=lambda pair: -pair[0])][: config.bank_capacity]
        expected = score_with([torch.stack(top)] if top else [])
        torch.testing.assert_close(score, expected, atol=2e-6, rtol=0)
        assert torch.equal(pred, (h @ space.labels.t()).argmax(1))


def test_batch_updates_depend_on_the_batches():
    features, ids = stream()
    a, b = (run(detector(update="batch"), features, ids, size)[1] for size in (16, 45))
    assert float((a - b).abs().max()) > 1e-4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50))
def test_scores_fall_when_the_bank_grows(seed):
    model = detector()
    features = unit(20, seed)
    before = model.score(features).score
    model.bank.offer(unit(3, seed + 1), torch.rand(3), torch.arange(3))
    model._bank_changed()
    after = model.score(features).score
    assert bool((after < before).all())


def test_no_bank_equals_neglabel_on_the_same_negatives():
    features, ids = stream()
    a = run(detector(bank="none", beta=1.0), features, ids, 16)
    neglabel = NegLabel(NegLabelSettings()).fit(make_space())
    b = neglabel.step(features)
    torch.testing.assert_close(a[1], b.score)
    assert torch.equal(a[0], b.pred)


@pytest.mark.parametrize("update", ["sample", "batch"])
def test_intra_modal_bank_keeps_inversions_that_are_filtered_image_to_image(update):
    features, ids = stream()
    model = detector(bank="intra", update=update)
    run(model, features, ids, 8)
    space, bank = model.space, model.bank
    assert len(bank) > 0 and model.inverted >= len(bank)
    torch.testing.assert_close(bank.features, rotate(features[bank.ids], bank.ids))
    images = features[bank.ids].double()
    for image, deviation in zip(images, bank.deviation, strict=True):
        gaps = (space.image_base.double() - space.proxies.double() @ image).tolist()
        assert min(gaps) > 0
        assert deviation.item() == pytest.approx(sum(gaps), abs=1e-5)
    assert bank.deviation.tolist() == sorted(bank.deviation.tolist(), reverse=True)


def test_intra_modal_bank_needs_an_inverter():
    with pytest.raises(DetectorError, match="bank 'intra' inverts images"):
        detector(inverter=None, bank="intra")
    with pytest.raises(DetectorError, match="bank 'intra' needs image proxies"):
        detector(bank="intra", space=replace(make_space(), image_base=None))


def test_bank_of_image_features_keeps_them_under_a_name_of_its_own():
    features, ids = stream()
    model = detector(inverter=None, bank="image")
    run(model, features, ids, 8)
    assert len(model.bank) > 0
    for row, key in zip(model.bank.features, model.bank.ids, strict=True):
        assert torch.equal(row, features[key])
        assert bool((model.space.proxies @ row < model.space.image_base).all())


def test_capacity_zero_and_no_negatives():
    features, ids = stream()
    space = make_space(negatives=0)
    _, score = run(detector(space=space, bank_capacity=0), features, ids, 8)
    assert torch.equal(score, torch.ones(90))
    _, score = run(detector(space=make_space(), bank_capacity=0), features, ids, 8)
    assert bool((score < 1).all())
    # without mined negatives nothing is ever gated, so the bank stays empty
    model = detector(space=space)
    run(model, features, ids, 8)
    assert len(model.bank) == 0


def test_state_continues_a_stream():
    features, ids = stream()
    whole = run(detector(), features, ids, 10)[1]
    first, second = detector(), detector()
    head = run(first, features[:50], ids[:50], 10)[1]
    second.load_state_dict(first.state_dict())
    tail = torch.cat(
        [second.step(features[i : i + 10], ids[i : i + 10]).score for i in range(50, 90, 10)]
    )
    assert torch.equal(torch.cat([head, tail]), whole)
    with pytest.raises(DetectorError, match="lacks"):
        detector().load_state_dict({"seen": torch.tensor(1)})


def test_reset_forgets():
    features, ids = stream()
    model = detector()
    a = run(model, features, ids, 10)[1]
    assert len(model.bank) > 0
    assert torch.equal(run(model, features, ids, 10)[1], a)


class TestRefusals:
    def test_not_fitted(self):
        with pytest.raises(DetectorError, match="not fitted"):
            InterNeg(inverter=rotate).step(unit(2))

    def test_nan_feature_leaves_no_trace(self):
        model = detector()
        features, ids = stream(20)
        features[3, 0] = float("nan")
        with pytest.raises(DetectorError, match="feature 3 of the batch contains NaN"):
            model.step(features, ids)
        assert model.seen == 0 and len(model.bank) == 0

    def test_wrong_size(self):
        with pytest.raises(DetectorError, match=r"expected \(batch, 12\)"):
            detector().step(torch.zeros(3, 5))

    def test_no_inverter(self):
        with pytest.raises(DetectorError, match="needs an inverter"):
            InterNeg().fit(make_space())

    def test_class_count(self):
        with pytest.raises(TextSpaceError, match="3 image proxies for 4 labels"):
            TextSpace(unit(4), 1.0, unit(2), proxies=unit(3))

    def test_nan_in_the_space(self):
        with pytest.raises(TextSpaceError, match="negatives contain NaN"):
            TextSpace(unit(4), 1.0, torch.full((1, D), float("nan")))

    def test_unknown_method(self):
        with pytest.raises(SettingsError, match="did you mean 'interneg'"):
            get_method("internet")

    def test_nan_inversion_never_enters_the_bank(self):
        model = detector(inverter=lambda h, k: torch.full_like(h, float("nan")))
        features, ids = stream()
        _, score = run(model, features, ids, 16)
        assert model.inverted > 0 and len(model.bank) == 0
        assert bool(torch.isfinite(score).all())


def test_protocols_restart_and_return_list_order():
    space = make_space()
    features, ids = stream()
    id_set = FeatureSet("id", features[::2], ids[::2], torch.zeros(45).numpy())
    ood_set = FeatureSet("ood", features[1::2], ids[1::2], -torch.ones(45).numpy())
    model = NegLabel(NegLabelSettings()).fit(space)
    direct = model.step(id_set.features).score.numpy()
    for made in (
        run_mixed(model, id_set, ood_set, 3, 7),
        run_openood(model, id_set, [ood_set], 7)[0],
    ):
        assert abs(made.id_score - direct).max() < 1e-6
    order = mixed_order(45, 45, 3)
    assert sorted(order) == list(range(90)) and list(order) != list(mixed_order(45, 45, 4))
    mixed = detector(update="sample")
    once = run_mixed(mixed, id_set, ood_set, 3, 7)
    again = run_mixed(mixed, id_set, ood_set, 3, 7)
    assert (once.id_score == again.id_score).all()
    alone = run_openood(mixed, id_set, [ood_set], 7)[0]
    assert abs(alone.id_score - once.id_score).max() > 1e-4


def test_observers_see_every_batch_with_its_places():
    features, ids = stream()
    sets = [
        FeatureSet(name, features[part], ids[part], torch.zeros(45).numpy())
        for name, part in (("id", slice(0, None, 2)), ("ood", slice(1, None, 2)))
    ]
    seen = []
    model = detector(update="batch")
    ran = run_mixed(model, *sets, 3, 7, [seen.append])
    places = torch.cat([batch.places for batch in seen])
    assert places.tolist() == mixed_order(45, 45, 3).tolist()
    assert [len(batch.places) for batch in seen] == [7] * 12 + [6]
    score = torch.empty(90)
    score[places] = torch.cat([batch.scores.score for batch in seen])
    assert score.tolist() == [*ran.id_score.tolist(), *ran.ood_score.tolist()]
    every = torch.cat([sets[0].features, sets[1].features])
    assert torch.equal(torch.cat([batch.features for batch in seen]), every[places])


def test_every_row_of_the_table_is_described():
    for method in list_methods():
        assert method.title and method.paper and method.year >= 2017 and method.venue
        assert method.fpr in ("id", "ood")
        assert method.order_dependent == bool(method.state) or method.transductive
        for preset in method.presets.values():
            method.make_settings({k: v for k, v in preset.items() if k not in method.fixed})


@pytest.mark.parametrize("limits", [{"diversity": 0.999}, {"max_age": 40}, {"admissions": 30}])
def test_what_protections_remember_does_not_grow_with_the_stream(limits):
    config = InterNegSettings(beta=0.9, bank_capacity=8, update="batch")
    model = ProtectedInterNeg(config, rotate, ProtectionSettings(**limits)).fit(make_space())
    features, ids = stream(400)
    for begin in range(0, 400, 20):
        model.step(features[begin : begin + 20], ids[begin : begin + 20])
    assert model.bank.offered > 60  # the stream did bring more than is kept
    assert len(model.bank.born) <= 16 + 20 and len(model.bank.recent) <= 100
    assert set(model.bank.ids.tolist()) <= set(model.bank.born)

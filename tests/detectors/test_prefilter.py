"""The pre-filter of inversions: what it learns, that it decides image by image, and its state."""

import math

import pytest
import torch
import torch.nn.functional as F

from openood_interneg.detectors import prefilter
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.prefilter import Prefilter
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.tins import TINSSettings
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError

D, C, M, N = 12, 4, 20, 150
LEARNED_FROM, FEWEST = 24, 3


@pytest.fixture(autouse=True)
def short_learning(monkeypatch):
    monkeypatch.setattr(prefilter, "LEARNED_FROM", LEARNED_FROM)
    monkeypatch.setattr(prefilter, "FEWEST", FEWEST)


def unit(n, seed):
    return F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_space():
    labels = unit(C, 1)
    proxies = F.normalize(labels + 0.6 * unit(C, 2), dim=-1)
    base = (labels * proxies).sum(1) - 0.45
    return TextSpace(labels, 6.0, unit(M, 3), proxies=proxies, base=base)


def inverter(features, ids):
    shift = torch.stack([unit(1, int(i) + 50)[0] for i in ids]).to(features)
    return F.normalize(features + 0.4 * shift, dim=-1)


def detector(update="sample", **values):
    values = dict(beta=0.5, bank_capacity=25, prefilter=True, update=update) | values
    return InterNeg(InterNegSettings(**values), inverter).fit(make_space())


def images():
    near = F.normalize(make_space().proxies[torch.arange(N) % C] + 0.7 * unit(N, 4), dim=-1)
    return torch.where((torch.arange(N) % 3 == 0)[:, None], near, unit(N, 5)), torch.arange(N)


def run(model, features, ids, batch):
    parts = [
        model.step(features[i : i + batch], ids[i : i + batch]).score
        for i in range(0, len(features), batch)
    ]
    return torch.cat(parts)


def by_hand(features, ids, config, space):
    """Algorithm 1 in Python's floats, with the pre-filter in its plainest form."""
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    labels, texts = space.labels.double().tolist(), space.negatives.double().tolist()
    proxies, base = space.proxies.double().tolist(), space.base.double().tolist()
    bank, scores, looked, similar, skipped = [], [], 0, [], 0

    def score(h):
        mass = [sum(math.exp(6 * dot(h, e)) for e in group) for group in (labels, [*texts, *bank])]
        return mass[0] / sum(mass)

    for row, key in zip(features, ids, strict=True):
        h = row.double().tolist()
        value = score(h)
        if value < config.beta:
            near = max(dot(h, p) for p in proxies)
            known = looked == LEARNED_FROM and len(similar) >= FEWEST
            limit = sorted(similar)[math.ceil(0.99 * (len(similar) - 1))] if known else math.inf
            if near > limit + 1e-9:
                skipped += 1
            else:
                e = inverter(row[None].double(), [key])[0].tolist()
                good = all(dot(e, p) < b for p, b in zip(proxies, base, strict=True))
                if looked < LEARNED_FROM:
                    looked += 1
                    similar += [near] if good else []
                if good:
                    worth = lambda e: sum(base) - sum(dot(e, p) for p in proxies)  # noqa: E731
                    bank = sorted([*bank, e], key=worth, reverse=True)[: config.bank_capacity]
                    value = score(h)
        scores.append(value)
    return torch.tensor(scores), skipped


@pytest.mark.parametrize("capacity", [5, 1000])
@pytest.mark.parametrize("batch", [1, 7, 40, N])
def test_sample_updates_are_the_same_however_the_stream_is_cut(batch, capacity):
    features, ids = images()
    model = detector(bank_capacity=capacity)
    expected, skipped = by_hand(features, ids, model.settings, model.space)
    score = run(model, features, ids, batch)
    torch.testing.assert_close(score.double(), expected.double(), atol=2e-6, rtol=0)
    assert model.skipped == skipped > 5
    assert len(model.bank) > 3


@pytest.mark.parametrize("update", ["batch", "sample"])
def test_a_resumed_stream_goes_on_alike(update):
    features, ids = images()
    whole = detector(update)
    expected = run(whole, features, ids, 10)
    for cut in (10, 30, 100):  # while it learns, in the middle of that, after it
        first, second = detector(update), detector(update)
        run(first, features[:cut], ids[:cut], 10)
        second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
        assert torch.equal(run(second, features[cut:], ids[cut:], 10), expected[cut:])
        assert (second.skipped, second.inverted) == (whole.skipped, whole.inverted)
    whole.reset()
    assert whole.skipped == 0 and torch.equal(run(whole, features, ids, 10), expected)


@pytest.mark.parametrize("update", ["batch", "sample"])
def test_inverts_fewer_and_keeps_nearly_the_same_bank(update):
    features, ids = images()
    plain, filtered = detector(update, prefilter=False), detector(update)
    for model in (plain, filtered):
        run(model, features, ids, 30)
    assert filtered.inverted < plain.inverted - 10
    assert filtered.skipped > 10
    kept, all_kept = set(filtered.bank.ids.tolist()), set(plain.bank.ids.tolist())
    assert len(kept & all_kept) >= 0.9 * len(all_kept)


@pytest.mark.parametrize("update", ["batch", "sample"])
def test_a_batch_in_which_no_image_passes(update):
    features, ids = images()
    model = detector(update)
    run(model, features, ids, 30)
    near = F.normalize(model.space.proxies - 0.2 * model.space.labels, dim=-1)
    inverted, before = model.inverted, model.skipped
    model.settings = InterNegSettings(**(vars(model.settings) | {"beta": 1.0}))  # gate them all
    said = model.step(near, torch.arange(C))
    torch.testing.assert_close(said.score, model.score(near).score)
    assert (model.inverted, model.skipped) == (inverted, before + C)


def test_too_few_admissible_ones_teach_nothing():
    learner = Prefilter(unit(C, 1))
    few = torch.arange(LEARNED_FROM) < FEWEST - 1
    with pytest.warns(UserWarning, match="of the first 24 inversions .* 2 could enter"):
        learner.learn(torch.linspace(0, 0.5, LEARNED_FROM), few)
    assert learner.room == 0 and bool(learner.passes(torch.tensor([1.0])).all())
    again = Prefilter(unit(C, 1))
    again.load_state_dict(learner.state_dict())
    assert bool(again.passes(torch.tensor([1.0])).all())


def test_the_limit_is_the_quantile_of_the_admissible_ones():
    learner = Prefilter(unit(C, 1))
    similarity = torch.linspace(0, 0.9, LEARNED_FROM)
    admissible = torch.arange(LEARNED_FROM) % 2 == 0
    learner.learn(similarity[:10], admissible[:10])
    assert learner.room == LEARNED_FROM - 10 and learner.limit == math.inf
    learner.learn(similarity[10:], admissible[10:])
    assert learner.limit == float(similarity[-2])
    learner.learn(torch.ones(3), torch.ones(3).bool())
    assert learner.limit == float(similarity[-2])


def test_what_is_stored_is_checked():
    model = detector()
    state = model.state_dict()
    assert set(state) > {"skipped", "prefilter.looked", "prefilter.admissible"}
    with pytest.raises(DetectorError, match="has 0 admissible of 99 inversions"):
        model.load_state_dict(state | {"prefilter.looked": torch.tensor(99)})
    with pytest.raises(DetectorError, match="lacks 'prefilter.looked'"):
        model.load_state_dict(detector(prefilter=False).state_dict())


def test_protections_go_with_it():
    features, ids = images()
    settings = detector().settings
    model = ProtectedInterNeg(settings, inverter, ProtectionSettings(max_age=60))
    model.fit(make_space())
    one = run(model, features, ids, 50)
    model.reset()
    assert torch.equal(run(model, features, ids, 9), one) and model.skipped > 5


@pytest.mark.parametrize("bank", ["intra", "image", "none"])
def test_other_banks_have_no_pre_filter(bank):
    with pytest.raises(SettingsError, match=f"prefilter is true and bank is {bank}; .*bank: inter"):
        InterNegSettings(prefilter=True, bank=bank)


@pytest.mark.parametrize("name, value", [("prefilter", True), ("init", "words")])
def test_tins_does_not_take_the_options(name, value):
    with pytest.raises(SettingsError, match=f"'tins' has no setting '{name}'.*interneg"):
        get_method("tins").make_settings({name: value})
    with pytest.raises(SettingsError, match="options of InterNeg's inversion"):
        TINSSettings(**{name: value})

"""Thresholds that go with the memory, against scoring the watched images anew for every image."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import CLASSES, SIZE, unit

from openood_interneg.detectors.adaneg import AdaNeg, AdaNegSettings
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.clipscope import CLIPScope, CLIPScopeSettings
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.mcm import MCM
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.detectors.rationeg import RatioNeg, RatioNegSettings
from openood_interneg.detectors.registry import list_methods
from openood_interneg.detectors.scores import Scores
from openood_interneg.detectors.tanl import TANL, TANLSettings
from openood_interneg.detectors.tins import TINS, TINSSettings
from openood_interneg.detectors.watched import reached
from openood_interneg.detectors.watched_bank import WatchedBank
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings

TURN = torch.linalg.qr(unit(SIZE, SIZE, seed=9))[0]
SHOTS = 5


def turned(features, ids):
    """Stands in for an inversion: any fixed map."""
    return features @ TURN


def whole_space(negatives=31):
    labels = unit(CLASSES, SIZE, seed=1)
    own = torch.arange(CLASSES).repeat_interleave(SHOTS)
    shots = F.normalize(labels[own] + 0.5 * unit(len(own), SIZE, seed=10), dim=-1)
    proxies = F.normalize(labels + 0.3 * unit(CLASSES, SIZE, seed=11), dim=-1)
    return TextSpace(
        labels=labels,
        logit_scale=20.0,
        negatives=unit(negatives, SIZE, seed=2),
        proxies=proxies,
        base=(labels * proxies).sum(dim=1),
        shots=shots,
        shot_labels=own,
        extra={"noise": unit(15, SIZE, seed=3)},
    )


def images(space, count, seed, share=0.5):
    """Images near labels (the share) and elsewhere, shuffled."""
    near = space.labels[torch.arange(count) % CLASSES]
    away = unit(count, SIZE, seed=seed + 1)
    is_id = (torch.arange(count) < share * count)[:, None]
    rows = F.normalize(torch.where(is_id, near, 2 * away) + 0.5 * unit(count, SIZE, seed=seed))
    return rows[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


def interneg(**given):
    values = {"beta": 0.7, "update": "sample", "bank_capacity": 6} | given
    return InterNeg(InterNegSettings(**values), turned)


def tins(**given):
    values = {"beta": 0.7, "bank_capacity": 6, "buffer_capacity": 5, "groups": 1} | given
    return TINS(TINSSettings(**values), turned)


def rationeg(**given):
    return RatioNeg(RatioNegSettings(memory_capacity=12, **given))


CAUSAL = {
    "interneg": interneg,
    "interneg, groups": lambda: interneg(groups=3),
    "interneg, room": lambda: interneg(bank_capacity=500),
    "interneg, no bank": lambda: interneg(bank="none"),
    "tins": lambda: tins(update="sample", buffer_capacity=0),
    "protected": lambda: ProtectedInterNeg(
        InterNegSettings(beta=0.7, update="sample", bank_capacity=6),
        turned,
        ProtectionSettings(max_age=20, diversity=0.95),
    ),
    "rationeg": lambda: rationeg(update="sample"),
    "rationeg, refresh": lambda: rationeg(update="sample", refresh=True),
    "clipscope": lambda: CLIPScope(),
}
BATCH = {
    "mcm": MCM,
    "interneg": lambda: interneg(update="batch"),
    "interneg, groups": lambda: interneg(update="batch", groups=3),
    "tins": tins,
    "tins, groups": lambda: tins(groups=3),
    "rationeg": rationeg,
    "rationeg, band": lambda: rationeg(band=True),
    "adaneg": lambda: AdaNeg(AdaNegSettings(capacity=3, gap=0.1, groups=4)),
}


def quantile(detector, calibration, tpr):
    """Sorts: the share tpr of the images scores at least this."""
    scores = sorted(detector.score(calibration).score.tolist())
    return scores[min(math.floor((1 - tpr) * len(scores) + 1e-9), len(scores) - 1)]


def moved_odds(gamma, before, after):
    """The threshold moves by as much as an image's own embedding moved its score."""
    odds = [float(x) / (1 - float(x)) for x in (gamma, before, after)]
    moved = odds[0] * odds[2] / odds[1]
    return moved / (1 + moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_each_image_has_the_threshold_of_its_own_moment(name):
    space = whole_space()
    calibration, stream = images(space, 40, 20, share=1), images(space, 150, 30)
    plain = CAUSAL[name]().fit(space)
    expected = []
    ids = torch.arange(len(stream))
    for i, row in enumerate(stream):
        if isinstance(plain, ProtectedInterNeg):  # what is too old leaves before the image comes
            plain._protected.now = plain.seen
            if plain._protected.expire():
                plain._bank_changed()
        before, score = quantile(plain, calibration, 0.9), plain.score(row[None]).score
        with_own = plain.step(row[None], ids[i : i + 1]).score
        if hasattr(plain, "bank") and i in plain.bank.ids.tolist():
            expected.append(moved_odds(before, score, with_own))
        else:  # banks: nothing changed; other memories score, then learn
            expected.append(before)
    watching = CAUSAL[name]().fit(space)
    watching.watch(calibration, 0.9)
    parts = zip(stream.split(32), ids.split(32), strict=True)
    gamma = torch.cat([watching.step(*part).gamma for part in parts])
    # `score` takes cosines in float32, the watched images' sums are in float64.
    torch.testing.assert_close(gamma, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert watching.threshold == pytest.approx(quantile(watching, calibration, 0.9), abs=3e-5)
    if name not in ("interneg, no bank",):
        assert len(set(gamma.tolist())) > 3, "the memory never changed: nothing was tested"


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_has_the_threshold_of_its_end(name):
    space = whole_space()
    calibration, stream = images(space, 40, 20, share=1), images(space, 150, 30)
    plain, watching = BATCH[name]().fit(space), BATCH[name]().fit(space)
    watching.watch(calibration, 0.9)
    seen = set()
    for part in stream.split(20):
        before, score = quantile(plain, calibration, 0.9), plain.score(part).score
        expected = plain.step(part)
        found = watching.step(part)
        assert torch.equal(found.score, expected.score) and expected.gamma is None
        now = quantile(plain, calibration, 0.9)
        gamma = [now] * len(part)
        if hasattr(plain, "bank"):
            good = plain._candidates(part, torch.zeros(len(part)))[1]
            for i in ((score < plain.settings.beta) & good).nonzero()[:, 0].tolist():
                gamma[i] = moved_odds(before, score[i], expected.score[i])
        torch.testing.assert_close(found.gamma, torch.tensor(gamma), atol=3e-5, rtol=0)
        seen.add(now)
    assert name == "mcm" or len(seen) > 2


def test_tanl_ranks_texts_for_watched_images_as_for_the_batch():
    class Spy(TANL):
        def _score(self, every, columns):
            self.columns = columns
            return super()._score(every, columns)

    space = whole_space()
    calibration, stream = images(space, 40, 20, share=1), images(space, 150, 30)
    options = TANLSettings(beta=9, capacity=12, gap=0.2, alpha=0.0)
    spy, watching = Spy(options).fit(space), TANL(options).fit(space)
    watching.watch(calibration, 0.9)
    for part in stream.split(20):
        spy.step(part)
        scores = spy._score(spy._activations(calibration)[1], spy.columns)
        expected = sorted(scores.tolist())[4]
        assert watching.step(part).gamma.tolist() == pytest.approx([expected] * len(part))


@pytest.mark.parametrize("make", [interneg, tins, rationeg], ids=["interneg", "tins", "rationeg"])
def test_watching_goes_on_after_reset_and_in_another_process(make):
    space = whole_space()
    calibration, stream = images(space, 40, 20, share=1), images(space, 120, 30)
    first = make().fit(space)
    first.watch(calibration)
    start = first.threshold
    whole = torch.cat([first.step(part).gamma for part in stream.split(20)])
    first.reset()
    assert first.threshold == pytest.approx(start, abs=1e-6)
    for part in stream[:60].split(20):
        first.step(part)
    second = make().fit(space)
    second.watch(calibration)
    second.load_state_dict(first.state_dict())
    rest = torch.cat([second.step(part).gamma for part in stream[60:].split(20)])
    torch.testing.assert_close(rest, whole[60:], atol=2e-6, rtol=0)


@given(
    seed=st.integers(0, 10_000),
    capacity=st.integers(1, 8),
    cuts=st.lists(st.integers(1, 9), min_size=4, max_size=14),
    batch=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_sums_of_a_bank_are_those_made_anew(seed, capacity, cuts, batch):
    space = whole_space(negatives=4)
    calibration = images(space, 12, 20, share=1)
    update = "batch" if batch else "sample"
    detector = interneg(bank_capacity=capacity, update=update, beta=0.95).fit(space)
    detector.watch(calibration, 0.8)
    stream = images(space, sum(cuts), seed)
    for part in stream.split(cuts):
        detector.step(part)
        fresh = WatchedBank(calibration, space, 1.0, detector.bank)
        torch.testing.assert_close(
            detector._beside.negative_lse, fresh.negative_lse, atol=1e-5, rtol=0
        )


def test_sums_survive_a_column_that_outweighs_all_others():
    """In float64 the difference of two sums of 1e20 has lost what else was in them."""
    space = replace(whole_space(negatives=1), logit_scale=100.0)
    rows = images(space, 5, 20, share=1)

    class Bank:
        capacity, layout, size = 2, 0, 0
        rows = torch.zeros(2, SIZE)
        places = property(lambda self: self.rows[: self.size])
        written = torch.tensor([0])

        def __len__(self):
            return self.size

    bank = Bank()
    watched = WatchedBank(rows, space, 1.0, bank)
    for row in (rows[0], -rows[0], unit(1, SIZE, seed=3)[0]):
        bank.rows[0], bank.size = row, 1
        watched.admitted(bank)
        expected = 100.0 * rows.double() @ torch.stack([space.negatives[0], row]).t().double()
        torch.testing.assert_close(
            watched.negative_lse, expected.logsumexp(dim=1), atol=1e-3, rtol=1e-6
        )


MAKERS = {
    **{f"{name} (sample)": make for name, make in CAUSAL.items()},
    **{f"{name} (batch)": make for name, make in BATCH.items()},
    "tanl": lambda: TANL(TANLSettings(beta=9, capacity=12, gap=0.2, alpha=0.5)),
    "clipscope (batch)": lambda: CLIPScope(CLIPScopeSettings(update="batch")),
}


@pytest.mark.parametrize("name", MAKERS)
def test_score_takes_images_by_themselves_and_learns_nothing(name):
    space = whole_space()
    detector = MAKERS[name]().fit(space)
    detector.step(images(space, 60, 40))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    some = images(space, 15, 50)
    together = detector.score(some)
    apart = Scores.joined([detector.score(row[None]) for row in some])
    torch.testing.assert_close(together.score, apart.score, atol=2e-6, rtol=1e-5)
    assert torch.equal(together.pred, apart.pred)
    assert detector.has_p == (together.p is not None)
    for key, value in detector.state_dict().items():
        assert torch.equal(value, before[key])


def test_every_method_with_a_memory_scores_without_it_changing():
    for method in list_methods():
        kind = method.detector
        if "state_dict" in {n for c in kind.__mro__[:-3] for n in vars(c)}:
            assert any("score" in vars(c) for c in kind.__mro__[:-3]), method.name


def test_what_cannot_be_watched_is_refused(space):
    detector = MCM().fit(space)
    with pytest.raises(DetectorError, match="no ID images are watched; call watch"):
        _ = detector.threshold
    bad = unit(4, SIZE)
    bad[2, 0] = math.nan
    with pytest.raises(DetectorError, match="feature 2"):
        detector.watch(bad)
    with pytest.raises(DetectorError, match="not fitted"):
        MCM().watch(unit(4, SIZE))
    detector.watch(unit(4, SIZE))
    detector.watch(None)
    assert detector.step(unit(2, SIZE)).gamma is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_share_tpr_reaches_the_threshold_and_no_higher_score_does(values, tpr):
    scores = torch.tensor(values, dtype=torch.float32)
    gamma = float(reached(scores, tpr))
    above = sum(value >= gamma for value in values)
    assert above >= tpr * len(values) - 1e-6
    higher = [value for value in values if value > gamma]
    assert len(higher) < tpr * len(values) + 1e-6 or not higher


def test_scores_are_a_pair_that_carries_more():
    scores = Scores(torch.arange(3), torch.tensor([0.1, 0.2, 0.3]), p=torch.tensor([0.5, 0.6, 1]))
    pred, score = scores
    assert pred is scores.pred and score is scores.score and scores.gamma is None
    both = Scores.joined([scores.judged_by(0.2), scores.judged_by(torch.zeros(3))])
    assert both.gamma.tolist() == pytest.approx([0.2] * 3 + [0.0] * 3) and len(both.p) == 6
    assert both.at(torch.tensor([5, 0])).p.tolist() == pytest.approx([1, 0.5])
    assert Scores.joined([scores, scores.judged_by(0.1)]).gamma is None


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    groups=st.sampled_from([1, 3]),
    protections=st.sampled_from(
        [{}, {"max_age": 9}, {"admissions": 30, "diversity": 0.9}, {"id_guard": 0.3}]
    ),
    moves=st.lists(st.sampled_from(["step", "step", "step", "reset", "load", "keep"]), max_size=12),
)
@settings(max_examples=30, deadline=None)
def test_watching_survives_whatever_happens_to_the_bank(seed, groups, protections, moves):
    space = whole_space(negatives=9)
    calibration = images(space, 12, 20, share=1)
    values = InterNegSettings(beta=0.95, update="sample", bank_capacity=5, groups=groups)
    detector = ProtectedInterNeg(values, turned, ProtectionSettings(**protections)).fit(space)
    detector.watch(calibration, 0.8)
    kept = detector.state_dict()
    for turn, move in enumerate(moves):
        if move == "step":
            some = images(space, 7, seed + 10 * turn)
            said = detector.step(some, torch.arange(7) + 7 * turn)
            assert said.gamma.shape == (7,)
        elif move == "reset":
            detector.reset()
        elif move == "keep":
            kept = detector.state_dict()
        else:
            detector.load_state_dict(kept)
        torch.testing.assert_close(
            detector.watched_scores, detector.score(calibration).score, atol=2e-6, rtol=2e-5
        )

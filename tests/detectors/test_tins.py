"""TINS against golden vectors of its authors' code, and its bank against a plain version."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.tins import TINS, TINSSettings
from openood_interneg.negatives.overflow_bank import OverflowBank
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.negatives.word_inversion import (
    WordInverter,
    repulsion_shift,
    word_prompts,
    word_texts,
)
from openood_interneg.settings import InterNegSettings

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("INTERNEG_GOLDEN_TINS") or TESTS / "golden" / "tins")
STREAMS = sorted(GOLDEN.glob("tins_stream_*.npz"))
INVERSIONS = sorted(GOLDEN.glob("tins_inversion_*.npz"))


def test_golden_vectors_are_there():
    assert STREAMS and INVERSIONS, f"no golden vectors in {GOLDEN}"


# ---- the stream ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_stream_is_the_authors(path):
    arrays = dict(np.load(path))

    def tensor(name):
        return torch.from_numpy(arrays[name])

    space = TextSpace(
        labels=tensor("label_features"),
        logit_scale=float(arrays["logit_scale"]),
        negatives=tensor("negative_features"),
        proxies=tensor("image_proxies"),
        base=tensor("base_cosine"),
    )
    batch, number = int(arrays["batch_size"]), 0

    def inverter(features, keys):
        gated = arrays[f"expected_gated_{number}"]
        torch.testing.assert_close(features, tensor("features")[number * batch + gated])
        return tensor(f"expected_embedding_{number}")

    detector = TINS(
        TINSSettings(
            groups=int(arrays["groups"]),
            beta=float(arrays["beta"]),
            bank_capacity=int(arrays["bank_capacity"]),
            buffer_capacity=int(arrays["buffer_capacity"]),
            repulsion=float(arrays["reg_lambda"]),
        ),
        inverter,
    ).fit(space)
    detector.bank.permutation = lambda count: tensor(f"permutation_{number}").long()
    for number, part in enumerate(tensor("features").split(batch)):
        scores = detector.step(part)
        np.testing.assert_allclose(scores.score, arrays[f"expected_conf_{number}"], atol=1e-5)
        assert scores.pred.tolist() == arrays[f"expected_pred_{number}"].tolist()
        np.testing.assert_array_equal(detector.bank.features, arrays[f"expected_bank_{number}"])
        np.testing.assert_array_equal(detector.bank.buffer, arrays[f"expected_buffer_{number}"])
    assert detector.bank.drawn >= 3


# ---- the inversion -------------------------------------------------------------------------


@pytest.mark.parametrize("path", INVERSIONS, ids=lambda path: path.stem)
def test_inversion_is_the_authors(path, tiny):
    arrays = dict(np.load(path))

    def tensor(name):
        return torch.from_numpy(arrays[name])

    backbone = tiny
    whole, _ = word_texts(arrays["negative_words"].tolist(), str(arrays["candidate_template"]))
    features = backbone.encode_text(whole)
    np.testing.assert_allclose(features, arrays["candidate_features"], atol=1e-5)
    template = str(arrays["candidate_template"])
    words = word_prompts(backbone, arrays["negative_words"].tolist(), template, features)
    tokens, positions = words.spell(range(len(whole)))
    assert tokens.tolist() == arrays["candidate_tokens"].tolist()
    assert positions.tolist() == arrays["candidate_positions"].tolist()
    initial = words.embedding[tokens[torch.arange(len(tokens)), positions]].float()
    np.testing.assert_allclose(initial, arrays["candidate_vectors"], atol=1e-6)
    images = tensor("image_features")
    strength = float(arrays["reg_lambda"])
    inverter = WordInverter(
        words,
        strength * tensor("image_proxies").mean(dim=0),
        steps=int(arrays["steps"]),
        lr=float(arrays["lr"]),
        weight_decay=float(arrays["weight_decay"]),
        eps=1e-8 * len(images),  # their loss is the mean over the images
    )
    assert inverter.choose(images).tolist() == arrays["expected_choice"].tolist()
    found, embeddings, losses = inverter.optimise(images)
    np.testing.assert_allclose(found[:, 0], arrays["expected_tokens"], atol=5e-3)
    np.testing.assert_allclose(embeddings, arrays["expected_embedding"], atol=5e-3)
    total = losses.mean(dim=1) + strength
    np.testing.assert_allclose(total, arrays["expected_loss"][:, 0], atol=1e-3)
    torch.testing.assert_close(inverter(images, torch.arange(len(images))).shape, images.shape)


@given(st.integers(0, 1000), st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_the_regularised_loss_is_that_of_a_shifted_target(seed, strength):
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        made = torch.randn(count, 8, generator=generator, dtype=torch.float64)
        return made / made.norm(dim=1, keepdim=True)

    images, proxies, texts = rows(3), rows(5), rows(3)
    spelled = (1 - (texts * images).sum(1)) + strength * (1 + texts @ proxies.t()).mean(1)
    target = images - repulsion_shift(proxies, strength)
    torch.testing.assert_close(spelled, (1 + strength) - (texts * target).sum(dim=1))


# ---- the score and the bank ----------------------------------------------------------------


def space_of(seed=0, classes=6, negatives=40, dim=12):
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        made = torch.randn(count, dim, generator=generator)
        return made / made.norm(dim=1, keepdim=True)

    space = TextSpace(
        labels=rows(classes),
        logit_scale=10.0,
        negatives=rows(negatives),
        proxies=rows(classes),
        base=torch.full((classes,), 0.9),
    )
    return space, rows(120)


@pytest.mark.parametrize("groups", [1, 4])
def test_without_a_bank_negatives_count_by_their_mean(groups):
    space, features = space_of()
    detector = TINS(TINSSettings(groups=groups, bank="none")).fit(space)
    own = (10 * features @ space.labels.t()).double().exp().sum(1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    parts = (order if groups > 1 else torch.arange(40)).view(groups, -1)
    other = (10 * features @ space.negatives.t()).double().exp()
    expected = torch.stack([own / (own + 6 * other[:, part].mean(1)) for part in parts]).mean(0)
    torch.testing.assert_close(detector.step(features).score.double(), expected, atol=1e-5, rtol=0)


def test_with_one_group_and_no_bank_it_ranks_as_internegs_negatives():
    space, features = space_of()
    ours = TINS(TINSSettings(groups=1, bank="none")).fit(space).step(features).score
    theirs = InterNeg(InterNegSettings(bank="none")).fit(space).step(features).score
    assert ours.argsort().tolist() == theirs.argsort().tolist()


def test_a_buffer_that_never_fills_changes_nothing():
    space, features = space_of()
    scores = []
    for buffer in (0, 10_000):
        chosen = TINSSettings(groups=1, beta=0.9, bank_capacity=16, buffer_capacity=buffer)
        detector = TINS(chosen, lambda h, keys: h).fit(space)
        scores.append(torch.cat([detector.step(part).score for part in features.split(30)]))
    torch.testing.assert_close(scores[0], scores[1])


def slow_bank(offers, capacity, buffer_capacity, draw):
    """Lists of (row, deviation): the rule as it is told."""
    bank, buffer, drawn = [], [], 0
    for rows in offers:
        merged = sorted(bank + rows, key=lambda row: -row[1])
        bank, rest = merged[:capacity], merged[capacity:]
        buffer = buffer + rest
        if buffer_capacity and len(buffer) >= buffer_capacity:
            top = sorted(buffer, key=lambda row: -row[1])[: len(buffer) // 2]
            pool = bank + top
            bank = [pool[i] for i in draw(len(pool), drawn)][:capacity]
            buffer, drawn = [], drawn + 1
    return bank, buffer


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_bank_follows_the_rule(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    bank = OverflowBank(5, 3, 6, seed=seed)
    offers, number = [], 0
    for size in sizes:
        deviation = torch.rand(size, generator=generator)
        keys = torch.arange(number, number + size)
        number += size
        bank.offer(keys[:, None].float().expand(-1, 3), deviation, keys)
        offers.append(list(zip(keys.tolist(), deviation.tolist(), strict=True)))

    def draw(count, drawn):
        made = torch.Generator().manual_seed((seed << 20) + drawn)
        return torch.randperm(count, generator=made).tolist()

    expected, waiting = slow_bank(offers, 5, 6, draw)
    assert bank.features[:, 0].tolist() == [row for row, _ in expected]
    assert bank.ids.tolist() == [row for row, _ in expected]
    assert bank.buffer[:, 0].tolist() == [row for row, _ in waiting]


def test_a_resumed_stream_goes_on_alike():
    space, features = space_of()
    chosen = TINSSettings(groups=4, beta=0.9, bank_capacity=8, buffer_capacity=8)

    def make():
        return TINS(chosen, lambda h, keys: h).fit(space)

    whole, first, second = make(), make(), make()
    expected = torch.cat([whole.step(part).score for part in features.split(20)])
    head = torch.cat([first.step(part).score for part in features[:60].split(20)])
    second.load_state_dict(first.state_dict())
    tail = torch.cat([second.step(part).score for part in features[60:].split(20)])
    torch.testing.assert_close(torch.cat([head, tail]), expected)
    assert whole.bank.drawn > 0


def test_image_by_image_it_cannot_keep_a_buffer():
    space, _ = space_of()
    with pytest.raises(DetectorError, match="buffer_capacity: 0"):
        TINS(TINSSettings(update="sample"), lambda h, keys: h).fit(space)

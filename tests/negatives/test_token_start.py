"""Inversions that start from the token embedding which a ridge map of the nouns gives."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import unit_rows

from openood_interneg.data.store import Store
from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.inversion import InversionError
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import (
    StoredInverters,
    pseudo_token_inversion,
)
from openood_interneg.negatives.token_start import (
    TokenMap,
    TokenStart,
    fit_token_map,
    modality_gap,
    single_tokens,
    token_start,
    word_started_inversion,
)
from openood_interneg.settings import InterNegSettings, InversionSettings
from openood_interneg.vlm.text_tower import FullLengthTextTower

CLASSES = ["star", "heart", "house", "tree"]
NOUNS = (
    "fish car key mushroom umbrella mug train barn whale wrench teapot gear strawberry dog cat "
    "bird flower moon sun apple bell book chair clock cup door drum flag guitar hammer hat kite "
    "lamp leaf pear ring ship shoe sword table tent bus boat cloud spoon arrow anchor bottle"
).split()


@pytest.fixture
def made(miniature, tmp_path):
    """A source whose images lie beside the texts by a constant, and settings."""
    path = tmp_path / "nouns.txt"
    path.write_text("\n".join([*NOUNS, "sea lion", "polar bear"]), encoding="utf-8")
    shift = 0.8 * unit_rows(1, miniature.embed_dim, 3)

    def images(words):
        return F.normalize(miniature.encode_text([f"The nice {w}." for w in words]) + shift, dim=-1)

    proxies = images(CLASSES)
    id_images = SimpleNamespace(labels=np.arange(4), features=lambda at: proxies[at])
    source = TextSpaceBuilder(miniature, CLASSES, id_images, Store(None))
    settings = InterNegSettings(
        corpus=str(path), images_per_class=1, num_negatives=20, init="words", steps=4
    )
    return source, settings, source.build(settings), images


def test_nouns_of_one_token(miniature):
    words = ["dog", "sea lion", "fish", "zyzzyvapqx", "", "Dog"]
    which, ids = single_tokens(miniature.tokenizer, words)
    one = [i for i, word in enumerate(words) if int(miniature.tokenizer([word]).argmax()) == 2]
    assert which.tolist() == one == [0, 2, 5]
    assert ids.tolist() == [int(miniature.tokenizer([words[i]])[0, 1]) for i in one]


def test_the_map_is_ridge_regression():
    x, y = unit_rows(30, 8, 1), torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    found = fit_token_map(x, y, penalty=0.05)
    a, b = x.double().numpy(), y.double().numpy()
    centred, target = a - a.mean(0), b - b.mean(0)
    size = 0.05 * (centred**2).sum() / 8
    rows = np.concatenate([centred, np.sqrt(size) * np.eye(8)])
    weight = np.linalg.lstsq(rows, np.concatenate([target, np.zeros((8, 5))]), rcond=None)[0]
    np.testing.assert_allclose(found.weight, weight, atol=1e-9)
    np.testing.assert_allclose(found(x), centred @ weight + b.mean(0), atol=1e-7)
    one = fit_token_map(x[:1], y[:1])  # a constant
    np.testing.assert_allclose(one(x), np.repeat(b[:1], 30, axis=0), atol=1e-6)
    with pytest.raises(InversionError, match="there is none"):
        fit_token_map(x[:0], y[:0])


def test_comes_closer_than_from_random_tokens(made):
    source, settings, space, images = made
    h = images(["padlock", "jellyfish", "snowflake", "fish", "whale", "lollipop", "parachute"])
    ids = torch.arange(len(h))
    found = {}
    for init in ("random", "words"):
        chosen = replace(settings, init=init, steps=4)
        inverter = get_method("interneg").inversion_of(source, chosen, space).make()
        found[init] = float((inverter(h, ids) * h).sum(1).mean())
    assert found["words"] > found["random"] + 0.02


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_starts_alike_in_any_batch(made, num_tokens):
    source, settings, space, images = made
    settings = replace(settings, num_tokens=num_tokens)
    inverter = word_started_inversion(source, settings, space).make()
    h, ids = images(NOUNS[:6]), torch.arange(6)
    start = inverter.start(h)
    assert start.shape == (6, num_tokens, source.backbone.text_tower.width)
    assert start.dtype == torch.float32 and bool((start == start[:, :1]).all())
    alone = torch.cat([inverter.start(row[None]) for row in h])
    torch.testing.assert_close(start, alone, atol=1e-9, rtol=0)
    again = word_started_inversion(source, settings, space).make()
    assert torch.equal(again(h, ids), inverter(h, ids))


def test_the_gap_carries_images_to_texts(made):
    _, _, space, images = made
    gap = modality_gap(space)
    expected = [
        sum(float(v) for v in space.labels[:, d]) / 4
        - sum(float(v) for v in space.proxies[:, d]) / 4
        for d in range(5)
    ]
    np.testing.assert_allclose(gap[:5], expected, atol=1e-6)

    h = images(NOUNS[:3])
    identity = TokenMap(torch.eye(len(gap)).double(), torch.zeros(len(gap)).double())
    moved = F.normalize(h.double() + gap.double(), dim=1).float()
    torch.testing.assert_close(TokenStart(identity, gap)(h)[:, 0], moved)


def test_everything_that_decides_a_start_is_in_the_key(made, tmp_path):
    source, settings, space, _ = made
    method = get_method("interneg")
    other = tmp_path / "other.txt"
    other.write_text("\n".join(NOUNS[:20]), encoding="utf-8")
    keys = [
        word_started_inversion(source, s, sp).key
        for s, sp in (
            (settings, space),
            (replace(settings, corpus=str(other)), space),
            (replace(settings, noun_prompt="a photo of a {}"), space),
            (replace(settings, ignore_case=False), space),
            (settings, replace(space, proxies=space.proxies.flip(1))),
        )
    ]
    keys.append(method.inversion_of(source, replace(settings, init="random"), space).key)
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert keys[0] == method.inversion_of(source, settings, space).key
    # and inversions that start at random are where they always were
    drawn = {"draws", "templates", "num_tokens", "steps", "lr", "weight_decay", "seed"}
    plain = pseudo_token_inversion(source.backbone, replace(settings, init="random"))
    assert drawn <= set(plain.key) == set(keys[-1])
    assert not {"start", "gap", "corpus"} & set(plain.key)


def test_stored_ones_are_found_again(made, tmp_path):
    source, settings, space, images = made
    h, ids = images(NOUNS[:3]), torch.arange(3)
    store = Store(tmp_path / "store")
    inverters = StoredInverters(store)
    first = get_method("interneg").fitted(settings, source, inverters, space)
    rows = first.inverter(h, ids)
    inverters.flush()
    again = get_method("interneg").fitted(settings, source, StoredInverters(store), space)
    assert torch.equal(again.inverter(h, ids), rows) and again.inverter.computed == 0


def test_what_it_cannot_do_without(made, tmp_path):
    source, settings, space, _ = made
    with pytest.raises(InversionError, match="give ID images, or set init: random"):
        word_started_inversion(source, settings, replace(space, proxies=None))
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("sea lion\npolar bear\n", encoding="utf-8")
    inversion = word_started_inversion(source, replace(settings, corpus=str(phrases)), space)
    with pytest.raises(InversionError, match="one token of miniature.*has none"):
        inversion.make()

    @dataclass(frozen=True)
    class Bare(InversionSettings):
        pass

    with pytest.raises(InversionError, match="Bare has no setting 'corpus'"):
        word_started_inversion(source, Bare(init="words"), space)


def test_towers_that_are_read_at_full_length(made):
    source, settings, space, _ = made
    model = source.backbone.model
    tower = FullLengthTextTower(model.encode_text, model.token_embedding)
    backbone = SimpleNamespace(text_tower=tower, tokenizer=source.backbone.tokenizer, name="other")
    other = SimpleNamespace(backbone=backbone, corpus=source.corpus, texts=source.texts)
    gap = modality_gap(space)
    found, same = (token_start(s, settings, gap, 1).token_map.weight for s in (other, source))
    torch.testing.assert_close(found, same)


def test_rationeg_takes_it_with_inverted_memory(made):
    source, settings, _, _ = made
    method = get_method("rationeg")
    chosen = method.make_settings(
        {"corpus": settings.corpus, "init": "words", "memory": "inverted", "images_per_class": 1}
    )
    inversion = method.inversion_of(source, chosen, source.build(chosen))
    assert inversion.key["start"] == "ridge map of nouns"

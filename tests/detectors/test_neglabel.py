"""NegLabel against slow versions written from the formulas, and its texts."""

import math
from dataclasses import replace

import pytest
import torch
from static_helpers import (
    ADJECTIVES,
    ID_NAMES,
    NEGATIVES,
    NOUNS,
    SCALE,
    FakeSource,
    cosine,
    least_similar,
    make,
    rows,
    same,
    unit,
)

from openood_interneg.data.classnames import class_names
from openood_interneg.detectors import neglabel
from openood_interneg.detectors.neglabel import NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.scoring import group_order
from openood_interneg.negatives.corpus import deduplicate, load_corpus
from openood_interneg.negatives.fraction import Pool, fraction_count, mine_fraction
from openood_interneg.negatives.mining import intra_modal
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.prompts import prompt_set


@pytest.mark.parametrize("name", ["neglabel", "csp"])
def test_grouped_score(image_space, image_stream, name):
    scores = make(name, groups=7).fit(image_space).step(image_stream)
    order = group_order(NEGATIVES, 7).tolist()
    assert len(order) == 28 and max(order) == 27  # the last two were cut off first
    expected = []
    for h in rows(image_stream):
        id_sum = sum(math.exp(SCALE * c) for c in cosine(h, image_space.labels))
        terms = [math.exp(SCALE * c) for c in cosine(h, image_space.negatives)]
        masses = []
        for g in range(7):
            group = sum(terms[j] for j in order[4 * g : 4 * g + 4])
            masses.append(id_sum / (id_sum + group))
        expected.append(sum(masses) / 7)
    same(scores.score, expected)


def test_one_group_is_the_default_score(image_space, image_stream):
    names = [
        make(name, groups=1).fit(image_space).step(image_stream).score
        for name in ("neglabel", "csp")
    ]
    torch.testing.assert_close(*names)


def test_neglabel_presets_and_its_defaults():
    presets = get_method("neglabel").presets
    paper = NegLabelSettings(**presets["neglabel_paper"])
    assert (paper.fraction, paper.groups, paper.intra_quantile_rule) == (0.15, 100, "linear")
    ported = NegLabelSettings(**presets["openood_vlm"])
    assert (ported.num_negatives, ported.label_prompt) == (10_000, "nice")
    default = NegLabelSettings()
    assert (default.num_negatives, default.groups, default.fraction) == (2000, 1, 0.0)


def test_counts_of_wordnet_31(realbench):
    corpus = load_corpus(realbench / "corpus" / "wordnet31.csv")
    nouns, adjectives = set(corpus.nouns), set(corpus.adjectives)
    assert (len(nouns), len(adjectives)) == (58_546, 13_091)
    assert (len(nouns & adjectives), len(nouns | adjectives)) == (1_637, 70_000)
    names = {benchmark: class_names(benchmark) for benchmark in ("cifar10", "imagenet")}
    # The authors' lists keep underscores in names of CIFAR-100, which then match no word.
    names["cifar100"] = [name.replace(" ", "_") for name in class_names("cifar100")]
    left = {
        benchmark: deduplicate(corpus, own, ignore_case=False) for benchmark, own in names.items()
    }
    assert {benchmark: len(words) for benchmark, words in left.items()} == {
        "cifar10": 69_993,
        "cifar100": 69_929,
        "imagenet": 69_554,
    }
    assert (len(left["imagenet"].nouns), len(left["imagenet"].adjectives)) == (58_101, 11_453)
    kept = deduplicate(corpus, ())  # NegLabel leaves class names in
    assert sum(fraction_count(len(x), 0.15) for x in (kept.nouns, kept.adjectives)) == 10_499


def test_neglabels_own_selection(corpus_file):
    source = FakeSource(ID_NAMES)
    settings = NegLabelSettings(
        corpus=corpus_file, intra_quantile_rule="linear", fraction=0.3, keep_class_names=True
    )
    found = source.space_for(get_method("neglabel"), settings)
    labels = source.labels("nice")
    adjectives = [w for w in ADJECTIVES if w != "moon"]  # a noun, too
    expected = []
    for words, prompt in ((NOUNS, "nice"), (adjectives, "adjective")):
        features = source.backbone.encode_prompts(words, prompt_set(prompt))
        expected += least_similar(words, features, labels, 0.3)
    assert list(found.negative_words) == expected
    assert len(expected) == 9 + 3
    assert torch.equal(found.labels, labels)
    removed = source.space_for(
        get_method("neglabel"), replace(settings, fraction=1.0, keep_class_names=False)
    )
    assert set(NOUNS) - set(removed.negative_words) == {"cat", "ship"}


def test_neglabel_without_a_fraction_has_the_common_space(corpus_file):
    source = FakeSource(ID_NAMES)
    settings = NegLabelSettings(corpus=corpus_file, num_negatives=11)
    assert neglabel.space(source, settings) is source.build(settings)


def test_a_fraction_of_less_than_a_word():
    pool = Pool(["a", "b"], [unit(2, 16)])
    with pytest.raises(SettingsError, match="less than one word"):
        mine_fraction([pool], intra_modal(unit(3, 16, seed=1)), 0.4)

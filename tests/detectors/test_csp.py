"""CSP against slow versions written from the formulas, and its texts."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from static_helpers import ADJECTIVES, ID_NAMES, NOUNS, FakeSource, least_similar, same, unit

from openood_interneg.detectors import csp
from openood_interneg.detectors.csp import CSP, CSPSettings
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.csp import SUPERCLASSES, conjugate
from openood_interneg.negatives.raw_average import encode_ensemble
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.vlm.prompts import prompt_set


@pytest.mark.slow
def test_counts_of_the_packaged_wordnet_30():
    """CSP's pool; of 3.1, its code has 47,327 nouns and 10,060 adjectives, 767 in both."""
    corpus, phrases = csp.word_pool(FakeSource(["cat"]), CSPSettings())
    whole = load_corpus("wordnet").excluding(csp.EXCLUDED)
    both = set(whole.nouns) & set(whole.adjectives)
    assert (len(whole.nouns), len(whole.adjectives), len(both)) == (47_287, 11_047, 841)
    assert (len(corpus.nouns), len(corpus.adjectives)) == (47_287, 11_047 - 841)
    assert set(corpus.adjectives) < set(phrases)


def test_conjugation_is_reproducible():
    phrases = conjugate(ADJECTIVES, seed=3)
    assert phrases == conjugate(ADJECTIVES[::-1], seed=3) != conjugate(ADJECTIVES, seed=4)
    assert all(p.removeprefix(f"{w} ") in SUPERCLASSES for w, p in phrases.items())
    drawn = Counter(p.split()[-1] for p in conjugate([f"w{i}" for i in range(2800)]).values())
    assert set(drawn) == set(SUPERCLASSES) and min(drawn.values()) > 140  # 200 expected


def raw_mean(backbone, names, templates):
    """The model's own forward over all 77 positions, not normalised, averaged."""
    total = 0
    for template in templates:
        tokens = backbone.tokenizer([template.replace("{}", name) for name in names])
        with torch.no_grad():
            total = total + backbone.model.encode_text(tokens).double()
    return F.normalize(total, dim=-1)


def test_average_of_unnormalised_features(tiny):
    templates = prompt_set("csp")
    expected = raw_mean(tiny, ID_NAMES, templates)
    same(encode_ensemble(tiny, ID_NAMES, templates), expected)
    normalised_first = tiny.encode_prompts(ID_NAMES, templates)
    assert float((normalised_first - expected).abs().max()) > 1e-5  # they are not the same
    same(
        encode_ensemble(tiny, ID_NAMES, templates[:1]), tiny.encode_prompts(ID_NAMES, templates[:1])
    )
    assert encode_ensemble(tiny, [], templates).shape == (0, tiny.embed_dim)


@pytest.mark.parametrize("averaging", ["raw", "unit"])
def test_csp_texts(tiny, corpus_file, averaging):
    source = TextSpaceBuilder(tiny, ID_NAMES)
    settings = CSPSettings(corpus=corpus_file, fraction=0.5, averaging=averaging)
    found = source.space_for(get_method("csp"), settings)

    def encode(names, prompt):
        if averaging == "unit":
            return tiny.encode_prompts(names, prompt_set(prompt))
        return raw_mean(tiny, names, prompt_set(prompt))

    labels = encode(ID_NAMES, "csp")
    same(found.labels, labels)
    nouns = [w for w in NOUNS if w != "queen"]
    phrases = conjugate([w for w in ADJECTIVES if w != "lunar"])
    phrases = [phrase for word, phrase in phrases.items() if word != "moon"]
    expected = []
    for texts, prompt in ((nouns, "csp"), (phrases, "csp_adjective")):
        features = encode(texts, prompt)
        chosen = least_similar(texts, features, labels, 0.5, veto=0.95)
        same(
            found.negatives[len(expected) : len(expected) + len(chosen)],
            torch.stack([features[texts.index(text)] for text in chosen]),
        )
        expected += chosen
    assert list(found.negative_words) == expected


def test_csps_veto_ranks_class_names_last(tiny, corpus_file):
    # All nouns but one: the one left out must be a class name, though its quantile is not largest.
    options = {"corpus": corpus_file, "fraction": 28.5 / 30, "label_prompt": "csp"}
    source = TextSpaceBuilder(tiny, ["cat", "ship", *ADJECTIVES[:9]])
    settings = CSPSettings(**options, excluded="none", veto=0.9999)
    kept = source.space_for(get_method("csp"), settings).negative_words
    assert {"cat", "ship"}.isdisjoint(kept)


def test_csp_with_neglabels_texts_is_neglabel(tiny, corpus_file):
    source = TextSpaceBuilder(tiny, ID_NAMES)
    paper = get_method("neglabel").presets["neglabel_paper"]
    common = {**paper, "corpus": corpus_file, "fraction": 0.4, "groups": 3}
    ours = CSPSettings(**common, excluded="none", superclasses="none", veto=1.0)
    theirs = NegLabelSettings(**common)
    spaces = [
        source.space_for(get_method(name), settings)
        for name, settings in (("csp", ours), ("neglabel", theirs))
    ]
    assert spaces[0].negative_words == spaces[1].negative_words
    features = unit(20, tiny.embed_dim, seed=13)
    torch.testing.assert_close(
        CSP(ours).fit(spaces[0]).step(features).score,
        NegLabel(theirs).fit(spaces[1]).step(features).score,
    )


def test_csp_says_so_where_the_corpus_has_no_files(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(NOUNS))
    with pytest.warns(UserWarning, match="lexicographer"):
        corpus, _ = csp.word_pool(FakeSource(ID_NAMES), CSPSettings(corpus=str(path)))
    assert corpus.nouns == tuple(NOUNS)

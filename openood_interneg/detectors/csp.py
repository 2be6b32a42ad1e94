"""CSP: conjugated semantic pool (Chen et al., NeurIPS 2024)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Literal

from openood_interneg.detectors.method import Method
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.negatives.corpus import Corpus, deduplicate, load_corpus
from openood_interneg.negatives.csp import (
    EXCLUDED,
    SUPERCLASSES,
    conjugate,
    with_veto,
)
from openood_interneg.negatives.fraction import Pool, mine_fraction
from openood_interneg.negatives.mining import intra_modal
from openood_interneg.negatives.raw_average import encode_ensemble
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import LARGEST, setting
from openood_interneg.vlm.prompts import prompt_set


@dataclass(frozen=True)
class CSPSettings(NegLabelSettings):
    """Settings of CSP: NegLabel's with another text side. `num_negatives` is not used."""

    label_prompt: str = setting("csp", "prompt set or template of the ID labels")
    noun_prompt: str = setting("csp", "prompt set or template of the nouns")
    adjective_prompt: str = setting("csp_adjective", "prompt set or template of the phrases")
    intra_quantile_rule: Literal["index", "linear"] = setting(
        "linear", "quantile as the sorted value at int(q C), or interpolated"
    )
    groups: int = setting(100, "G, groups over which the score is averaged", low=1)
    fraction: float = setting(
        0.15, "p, share of the nouns and of the phrases that become negative", low=1e-6, high=1.0
    )
    keep_class_names: bool = setting(
        True, "keep words equal to a class name in the pool; the veto ranks them last"
    )
    excluded: str = setting(
        ";".join(EXCLUDED), "lexicographer files left out of the corpus, or none"
    )
    superclasses: str = setting(
        ";".join(SUPERCLASSES), "nouns that adjectives are combined with, or none"
    )
    superclass_seed: int = setting(
        0, "seed of the superclass of each adjective", low=0, high=LARGEST
    )
    veto: float = setting(
        0.95, "a text with a larger cosine with any label is ranked last; 1: off", low=-1, high=1.0
    )
    averaging: Literal["raw", "unit"] = setting(
        "raw", "average over templates of un-normalised text features (CSP's code) or of unit ones"
    )


def word_pool(source: TextSource, settings: CSPSettings) -> tuple[Corpus, dict[str, str]]:
    """The corpus without the excluded files, and the text of each adjective.

    The superclasses are drawn before words leave the pool, so a word's phrase does not depend on
    the ID classes.
    """
    corpus = load_corpus(settings.corpus)
    excluded = split(settings.excluded)
    if excluded and corpus.lexnames is None:
        warnings.warn(
            f"the corpus '{corpus.name}' does not tell lexicographer files, so none are left out, "
            "as in CSP's runs with other corpora; excluded: none says the same without a warning",
            stacklevel=2,
        )
    elif excluded:
        corpus = corpus.excluding(excluded)
    superclasses = split(settings.superclasses)
    phrases = {word: word for word in corpus.adjectives}
    if superclasses:
        phrases = conjugate(corpus.adjectives, superclasses, settings.superclass_seed)
    taken = () if settings.keep_class_names else source.class_names
    return deduplicate(corpus, taken, ignore_case=settings.ignore_case), phrases


def split(words: str) -> tuple[str, ...]:
    """The parts of a list written with semicolons; "none" is the empty list."""
    return () if words == "none" else tuple(w.strip() for w in words.split(";") if w.strip())


def space(source: TextSource, settings: CSPSettings) -> TextSpace:
    """Labels and conjugated negatives of CSP, nouns first.

    Differences from the authors' code: the superclasses are drawn over the sorted adjectives
    (theirs depend on the file system), and everything is float32 (they average negatives in fp16).
    """
    templates = prompt_set(settings.label_prompt)
    if settings.averaging == "raw" and len(templates) > 1:
        labels = encode_ensemble(source.backbone, source.class_names, templates)
    else:
        labels = source.labels(settings.label_prompt)

    texts = partial(source.texts, average=settings.averaging, precision=settings.corpus_precision)
    criterion = intra_modal(labels, settings.intra_quantile, settings.intra_quantile_rule)
    if settings.veto < 1:
        criterion = with_veto(criterion, labels, settings.veto)
    corpus, phrases = word_pool(source, settings)
    words = tuple(phrases[adjective] for adjective in corpus.adjectives)
    negative_words, negatives = mine_fraction(
        [
            Pool(corpus.nouns, texts(corpus.nouns, settings.noun_prompt, "nouns")),
            Pool(words, texts(words, settings.adjective_prompt, "phrases")),
        ],
        criterion,
        settings.fraction,
    )
    return TextSpace(
        labels=labels,
        logit_scale=source.backbone.logit_scale,
        negatives=negatives,
        negative_words=negative_words,
        class_names=source.class_names,
    )


class CSP(NegLabel):
    r"""NegLabel's grouped score against a pool of nouns and conjugated phrases.

    .. math:: S(h) = \frac{1}{G} \sum_g
        \frac{\sum_i e^{s \cos(h, e_i) / \tau}}
             {\sum_i e^{s \cos(h, e_i) / \tau} + \sum_{j \in g} e^{s \cos(h, e_j^-) / \tau}}

    What is new are the texts e^-: the least ID-like share p of the nouns and, separately, of
    phrases "adjective superclass". Labels and nouns are averages of 8 templates, phrases of 4.
    Source: arXiv 2410.08611, Section 4.
    """

    Settings = CSPSettings


# One configuration for every ID set in the authors' code; none of them is CIFAR.
OFFICIAL = {"fraction": 0.15, "groups": 100, "veto": 0.95, "superclass_seed": 0}

METHOD = Method(
    name="csp",
    title="CSP",
    detector=CSP,
    paper="2410.08611",
    year=2024,
    venue="NeurIPS",
    needs=("negatives",),
    space=space,
    presets={"imagenet": OFFICIAL, "cifar10": OFFICIAL, "cifar100": OFFICIAL},
)

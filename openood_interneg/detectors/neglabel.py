"""NegLabel: negative labels by text-text similarity (Jiang et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from openood_interneg.detectors.grouped import GroupedDetector
from openood_interneg.detectors.method import Method
from openood_interneg.negatives.fraction import Pool, candidates, mine_fraction
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import NegativeSettings, SettingsError, setting


@dataclass(frozen=True)
class NegLabelSettings(NegativeSettings):
    """Settings of NegLabel. By default it gets as many negatives as InterNeg does.

    With a `fraction` above 0 the negatives are chosen as in NegLabel's own code: that share of
    the nouns and of the adjectives, nouns first, whatever `num_negatives` says.
    """

    negatives: Literal["inter", "intra", "none"] = setting(
        "intra", "selection of the negative texts: NegLabel's (intra) or InterNeg's (inter)"
    )
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(1, "G, groups over which the score is averaged", low=1)
    fraction: float = setting(
        0.0, "p, share of each part of speech instead of num_negatives; 0: off", low=0.0, high=1.0
    )
    keep_class_names: bool = setting(
        False, "keep words equal to a class name in the pool, as NegLabel's code does with fraction"
    )

    def check(self) -> None:
        """A fraction is defined for NegLabel's own selection only."""
        if self.fraction and self.negatives != "intra":
            raise SettingsError(
                f"fraction {self.fraction} goes with negatives: intra, not '{self.negatives}'"
            )
        if self.keep_class_names and not self.fraction:
            raise SettingsError("keep_class_names goes with a fraction above 0")


def space(source: TextSource, settings: NegLabelSettings) -> TextSpace:
    """The common text space, or with a `fraction` the negatives of NegLabel's own code."""
    if not settings.fraction:
        return source.build(settings)
    corpus = candidates(source, settings, settings.keep_class_names)
    texts = partial(source.texts, precision=settings.corpus_precision)
    words, features = mine_fraction(
        [
            Pool(corpus.nouns, texts(corpus.nouns, settings.noun_prompt, "nouns")),
            Pool(
                corpus.adjectives, texts(corpus.adjectives, settings.adjective_prompt, "adjectives")
            ),
        ],
        source.criterion(settings),
        settings.fraction,
    )
    common = source.build(replace(settings, negatives="none", fraction=0.0, keep_class_names=False))
    return replace(common, negatives=features, negative_words=words)


class NegLabel(GroupedDetector[NegLabelSettings]):
    r"""Softmax mass of the ID labels against negative labels, averaged over G groups.

    .. math:: S(h) = \frac{1}{G} \sum_g
        \frac{\sum_i e^{s \cos(h, e_i) / \tau}}
             {\sum_i e^{s \cos(h, e_i) / \tau} + \sum_{j \in g} e^{s \cos(h, e_j^-) / \tau}}

    Source: arXiv 2403.20078; Eq. 6 of the InterNeg paper for G = 1.
    """

    Settings = NegLabelSettings


# p = 0.15 of each part of speech: 10,499 of WordNet 3.1's 70,000 words.
PAPER = {
    "label_prompt": "neglabel_nice",
    "noun_prompt": "neglabel_nice",
    "adjective_prompt": "neglabel_adjective",
    "intra_quantile_rule": "linear",
    "fraction": 0.15,
    "keep_class_names": True,
    "groups": 100,
}

# The port in OpenOOD-VLM, whose script tries G = 100, 10 and 1.
OPENOOD_VLM = {"num_negatives": 10_000, "intra_quantile_rule": "index", "groups": 100}

# OpenOOD-VLM's scripts for CIFAR take the whole corpus; NegLabel's code has no settings for it.
CIFAR = {"num_negatives": 70_000, "intra_quantile_rule": "index", "groups": 1}

METHOD = Method(
    name="neglabel",
    title="NegLabel",
    detector=NegLabel,
    paper="2403.20078",
    year=2024,
    venue="ICLR",
    needs=("negatives",),
    space=space,
    presets={
        "imagenet": PAPER,
        "cifar10": CIFAR,
        "cifar100": CIFAR,
        "neglabel_paper": PAPER,
        "openood_vlm": OPENOOD_VLM,
    },
)

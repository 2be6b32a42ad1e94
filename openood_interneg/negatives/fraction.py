"""A share of each part of speech as negative texts: NegLabel's count, which CSP keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from openood_interneg.negatives.corpus import Corpus, CorpusSettings, deduplicate, load_corpus
from openood_interneg.negatives.mining import Criterion, select
from openood_interneg.negatives.text_space import TextSource
from openood_interneg.settings import SettingsError


class Pool(NamedTuple):
    """Candidates of one part of speech: n texts and their unit features in chunks (n_k, D)."""

    words: Sequence[str]
    chunks: Iterator[Tensor] | Sequence[Tensor]


def fraction_count(total: int, fraction: float) -> int:
    """How many of `total` candidates a fraction keeps: floor(p n), as NegLabel's code."""
    return int(total * fraction)


def mine_fraction(
    pools: Sequence[Pool], criterion: Criterion, fraction: float
) -> tuple[tuple[str, ...], Tensor]:
    """The best-ranked share of each pool, pool after pool, best first within one.

    Args:
        pools: for NegLabel and CSP nouns first, then adjectives (or phrases): what grouping
            cuts off is the end of the list, so the order matters.
        criterion: of `negatives.mining`; texts that do not qualify count in n, but are not kept.
        fraction: p of each pool.

    Returns:
        M texts and their features (M, D).

    Raises:
        SettingsError: the fraction leaves nothing.
    """
    words: list[str] = []
    parts = []
    for pool in pools:
        limit = fraction_count(len(pool.words), fraction)
        if limit:
            index, features, _ = select(pool.chunks, criterion, limit)
            words += [pool.words[i] for i in index.tolist()]
            parts.append(features)
    if not parts:
        sizes = " and ".join(str(len(pool.words)) for pool in pools)
        raise SettingsError(
            f"fraction {fraction} of {sizes} candidates is less than one word; use a larger "
            "fraction or corpus"
        )
    return tuple(words), torch.cat(parts)


def candidates(source: TextSource, settings: CorpusSettings, keep_class_names: bool) -> Corpus:
    """The corpus; a word that is noun and adjective is a noun.

    Args:
        source: of the class names.
        settings: which corpus.
        keep_class_names: NegLabel and CSP leave words equal to a class name in the pool.
    """
    if not keep_class_names:
        return source.corpus(settings)
    return deduplicate(load_corpus(settings.corpus), (), ignore_case=settings.ignore_case)

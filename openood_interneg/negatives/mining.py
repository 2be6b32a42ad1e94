"""Negative texts out of a corpus: the inter-modal criterion, and NegLabel's for comparison.

A text e qualifies if cos(e, p_i) < b_i for every class i (Eq. 9). Of those that do, the M with
the largest deviation degree D(e) = sum_i (b_i - cos(e, p_i)) are kept (Eq. 10). D is linear in
e, so ranking takes one dot product per text; only the criterion needs all C cosines, and of
those only their largest excess over b_i. Texts are looked at in chunks: memory is
chunk x C, never corpus x C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CHUNK = 8192

# What a criterion says of a chunk of texts: qualifies (n,) bool, rank (n,) highest first.
Criterion = Callable[[Tensor], tuple[Tensor, Tensor]]

_Kept = tuple[Tensor, Tensor, Tensor]  # rank, index, features of rows


@dataclass(frozen=True)
class NegativeTexts:
    """Mined negative texts, adjectives first, best first within a part of speech.

    Attributes:
        words: M words.
        parts_of_speech: M times "adjective" or "noun".
        features: (M, D) float32 unit rows.
        deviation: (M,) deviation degree D(e) of Eq. 10 (sum over classes).
        margin: (M,) max_i (cos(e, p_i) - b_i); negative where the criterion holds.
        passing: how many of each part of speech qualified.
    """

    words: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    features: Tensor
    deviation: Tensor
    margin: Tensor
    passing: dict[str, int]


def criterion_margin(texts: Tensor, proxies: Tensor, base: Tensor) -> Tensor:
    """max_i (cos(e, p_i) - b_i): the criterion of Eq. 9 holds where this is below zero.

    Args:
        texts: (n, D) unit rows.
        proxies: (C, D) unit rows.
        base: (C,) cosines b_i.

    Returns:
        (n,)
    """
    return torch.addmm(-base[None], texts, proxies.t()).amax(dim=1)


def deviation_degree(texts: Tensor, proxies: Tensor, base: Tensor) -> Tensor:
    """D(e) = sum_i b_i - e . sum_i p_i (Eq. 10), (n,)."""
    return base.sum() - texts @ proxies.sum(dim=0)


def inter_modal(proxies: Tensor, base: Tensor) -> Criterion:
    """The paper's criterion: closer to no proxy than its own label (Eqs. 9, 10)."""

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        passes = criterion_margin(texts, proxies, base) < 0
        return passes, deviation_degree(texts, proxies, base)

    return look


def intra_modal(
    label_features: Tensor,
    quantile: float = 0.95,
    rule: Literal["index", "linear"] = "index",
) -> Criterion:
    """NegLabel's selection: every text qualifies, the least similar to the labels first.

    Similarity of a text is the `quantile` of its cosines with the C labels: the sorted value at
    int(quantile * C) (`index`, OpenOOD-VLM's code) or interpolated (`linear`, NegLabel's).
    """
    classes = len(label_features)
    place = min(int(quantile * classes), classes - 1)

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        cosine = texts @ label_features.t()
        if rule == "index":
            similarity = cosine.kthvalue(place + 1, dim=1).values
        else:
            similarity = cosine.quantile(quantile, dim=1)
        return torch.ones_like(similarity, dtype=torch.bool), -similarity

    return look


def quota(num_negatives: int, adjectives: int, nouns: int) -> tuple[int, int]:
    """How many adjectives and nouns make up M, in proportion to how many qualified.

    Rounds the adjectives down, as the authors' code does; where fewer than M qualify, all do.
    """
    total = adjectives + nouns
    if total <= num_negatives:
        return adjectives, nouns
    share = num_negatives * adjectives // total
    return share, num_negatives - share


def ranked(chunk: Tensor, criterion: Criterion) -> Tensor:
    """Rank of each text of a chunk, highest first; -inf where it does not qualify. (n,) float32."""
    passes, rank = criterion(chunk)
    return rank.masked_fill(~passes, float("-inf"))


def rank_chunks(chunks: Iterable[Tensor], criterion: Criterion) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of unit rows (n_k, D), each with the ranks (n_k,) of its rows."""
    return ((chunk, ranked(chunk, criterion)) for chunk in chunks)


def select_ranked(
    chunks: Iterable[tuple[Tensor, Tensor]], limit: int
) -> tuple[Tensor, Tensor, int]:
    """The `limit` best-ranked rows of a stream of chunks.

    Keeping the best of what was kept and of what comes is associative, so chunks may be ranked
    anywhere, by any number of processes, and merged here.

    Args:
        chunks: features (n_k, D) and their ranks (n_k,) as `ranked` gives them; rows are numbered
            through.
        limit: largest number of rows returned.

    Returns:
        indices (m,) int64 and their features (m, D), best first (earlier row first on ties), and
        how many rows qualified in all.

    Raises:
        ValueError: no chunk at all.
    """
    kept: _Kept | None = None
    passing = seen = 0
    for chunk, rank in chunks:
        index = (rank > float("-inf")).nonzero()[:, 0]
        passing += len(index)
        new = (rank[index], index + seen, chunk[index])
        seen += len(chunk)
        if kept is None:
            kept = new
        else:
            kept = _joined(kept, new)
        if len(kept[0]) > limit + CHUNK:  # cut now and then, not after every chunk
            kept = _best(kept, limit)
    if kept is None:
        raise ValueError("there is no text to select from")
    _, index, features = _best(kept, limit)
    return index, features, passing


def select(
    chunks: Iterable[Tensor], criterion: Criterion, limit: int
) -> tuple[Tensor, Tensor, int]:
    """As `select_ranked`, for chunks (n_k, D) that are ranked here."""
    return select_ranked(rank_chunks(chunks, criterion), limit)


def _joined(kept: _Kept, new: _Kept) -> _Kept:
    return torch.cat([kept[0], new[0]]), torch.cat([kept[1], new[1]]), torch.cat([kept[2], new[2]])


def _best(kept: _Kept, limit: int) -> _Kept:
    order = kept[0].argsort(descending=True, stable=True)[:limit]
    return kept[0][order], kept[1][order], kept[2][order]


def mine(
    nouns: Sequence[str],
    ranked_nouns: Iterable[tuple[Tensor, Tensor]],
    adjectives: Sequence[str],
    ranked_adjectives: Iterable[tuple[Tensor, Tensor]],
    num_negatives: int,
    proxies: Tensor,
    base: Tensor,
) -> NegativeTexts:
    """Mines M negative texts from a corpus given as words and chunks of their ranked features.

    Args:
        nouns: de-duplicated nouns; may be empty.
        ranked_nouns: their text features, as `rank_chunks` yields them.
        adjectives: de-duplicated adjectives; may be empty.
        ranked_adjectives: as of the nouns.
        num_negatives: M.
        proxies: (C, D), for the deviation and margin that are reported.
        base: (C,), likewise.

    Returns:
        At most M texts: fewer where fewer qualify, none where nothing does.
    """
    found = {}
    for kind, words, chunks in (
        ("adjective", adjectives, ranked_adjectives),
        ("noun", nouns, ranked_nouns),
    ):
        if len(words):
            found[kind] = select_ranked(chunks, num_negatives)
        else:
            empty = torch.empty(0, dtype=torch.int64, device=proxies.device)
            found[kind] = (empty, proxies[:0], 0)
    passing = {kind: count for kind, (_, _, count) in found.items()}
    shares = quota(num_negatives, passing["adjective"], passing["noun"])
    picked, kinds, parts = [], [], []
    for kind, words, share in (
        ("adjective", adjectives, shares[0]),
        ("noun", nouns, shares[1]),
    ):
        index, features, _ = found[kind]
        picked += [words[i] for i in index[:share].tolist()]
        kinds += [kind] * min(share, len(index))
        parts.append(features[:share])
    features = torch.cat(parts)
    return NegativeTexts(
        words=tuple(picked),
        parts_of_speech=tuple(kinds),
        features=features,
        deviation=deviation_degree(features, proxies, base),
        margin=criterion_margin(features, proxies, base) if len(features) else base[:0],
        passing=passing,
    )

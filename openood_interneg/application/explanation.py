"""Which texts and which bank entries decide the score of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openood_interneg.negatives.text_space import TextSpace

NAMED = 3  # nearest texts of a bank entry


@dataclass(frozen=True)
class BankEntry:
    """An entry of the bank as `explain` shows it: an inverted image of the stream.

    Attributes:
        cosine: with the image.
        share: of the softmax mass.
        image_id: of the picture it was made from.
        words: nearest labels and negative texts with their cosines.
    """

    cosine: float
    share: float
    image_id: int
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Explanation:
    """Why an image got its score.

    Attributes:
        score: as `score` gives it.
        prediction: label or "unknown"; None without gamma.
        labels: best (text, share of the softmax mass over labels, negatives and bank).
        negatives: likewise.
        bank: nearest entries of the bank.
        dominant: "max" where one negative beats every label, "sum" where only all of them
            together push the score down, None where the score is at least gamma (Fig. 2).
    """

    score: float
    prediction: str | None
    labels: tuple[tuple[str, float], ...]
    negatives: tuple[tuple[str, float], ...]
    bank: tuple[BankEntry, ...]
    dominant: Literal["max", "sum"] | None


def explain(
    feature: Tensor,
    space: TextSpace,
    bank: Tensor,
    ids: Sequence[int],
    *,
    score: float,
    prediction: str | None,
    known: bool | None,
    scale: float,
    top: int,
) -> Explanation:
    """Explains a score; the shares are of the softmax over all texts and the bank (G = 1).

    Args:
        feature: (D,) unit image feature.
        bank: (k, D) unit rows of the bank.
        ids: ids of their k images.
        score: what the detector said.
        prediction: likewise.
        known: whether the score reaches gamma; None without gamma.
        scale: logit scale over tau.
        top: how many of each kind, at most.
    """
    texts = torch.cat([space.labels, space.negatives])
    words = [*space.class_names, *space.negative_words]
    cosine = torch.cat([texts, bank]) @ feature
    mass = (cosine * scale).softmax(dim=0)
    classes = len(space.labels)

    def best(part: slice) -> tuple[tuple[str, float], ...]:
        values, places = mass[part].topk(min(top, len(mass[part])))
        return tuple(
            (words[part.start + i], v)
            for i, v in zip(places.tolist(), values.tolist(), strict=True)
        )

    entries = []
    for i in cosine[len(texts) :].topk(min(top, len(bank))).indices.tolist():
        near, places = (texts @ bank[i]).topk(min(NAMED, len(texts)))
        named = tuple((words[p], c) for p, c in zip(places.tolist(), near.tolist(), strict=True))
        at = len(texts) + i
        entries.append(BankEntry(cosine[at].item(), mass[at].item(), ids[i], named))
    dominant: Literal["max", "sum"] | None = None
    if known is False:
        dominant = "max" if mass[classes:].max() > mass[:classes].max() else "sum"
    return Explanation(
        score=score,
        prediction=prediction,
        labels=best(slice(0, classes)),
        negatives=best(slice(classes, len(texts))),
        bank=tuple(entries),
        dominant=dominant,
    )

"""Which texts and which remembered images decide the score of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from openood_interneg.application.inputs import UNKNOWN
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.rationeg import RatioNeg

NAMED = 3  # nearest texts of an entry of the memory


@dataclass(frozen=True)
class BankEntry:
    """An image of the stream that the method remembers, as `explain` shows it.

    Attributes:
        cosine: of what is remembered of it (its inversion, or its feature) with the image.
        share: of the softmax mass; for RatioNeg, of what the memory says against the image.
        image_id: of the remembered picture.
        words: nearest labels and negative texts with their cosines.
    """

    cosine: float
    share: float
    image_id: int
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Explanation:
    """Why an image got its score; `str` of it is a few lines.

    Attributes:
        score: as `score` gives it.
        prediction: label or "unknown"; None where nothing tells unknown images.
        gamma: the threshold as it is now; None where p-values tell, or nothing.
        p: the p-value; None for methods that have none.
        alpha: p-values up to it are unknown; None where gamma tells, or nothing.
        labels: best (text, share of the softmax mass over labels, negatives and bank).
        negatives: likewise; empty for methods without negative texts.
        bank: nearest images that the method remembers.
        dominant: of an unknown image, "max" where one negative beats every label, "sum" where only
            all of them together push the score down (Fig. 2); otherwise None.
    """

    score: float
    prediction: str | None
    gamma: float | None
    p: float | None
    alpha: float | None
    labels: tuple[tuple[str, float], ...]
    negatives: tuple[tuple[str, float], ...]
    bank: tuple[BankEntry, ...]
    dominant: Literal["max", "sum"] | None

    def __str__(self) -> str:
        """Prediction, score against threshold, the nearest labels, negatives and memories."""
        against = f"score {self.score:.4g}"
        if self.gamma is not None:
            against += f", {'below' if self.score < self.gamma else 'not below'} {self.gamma:.4g}"
        if self.p is not None:
            against += f", p {self.p:.3g}"
        if self.alpha is not None:
            against += f", {'above' if self.prediction != UNKNOWN else 'not above'} {self.alpha:g}"
        lines = [f"{self.prediction or 'no threshold'} ({against})"]
        why = {"max": "one negative beats every label", "sum": "all negatives together"}
        if self.dominant is not None:
            lines.append(f"  because: {why[self.dominant]}")
        for name, texts in (("labels", self.labels), ("negatives", self.negatives)):
            if texts:
                shown = ", ".join(f"{text} {share:.1%}" for text, share in texts)
                lines.append(f"  {name}: {shown}")
        for entry in self.bank:
            words = ", ".join(word for word, _ in entry.words)
            lines.append(
                f"  like a remembered image: cosine {entry.cosine:.3f}, {entry.share:.1%}, near "
                f"{words}"
            )
        return "\n".join(lines)


def explain(
    detector: Detector[Any],
    features: Tensor,
    *,
    score: float,
    label: str,
    known: bool | None,
    gamma: float | None,
    p: float | None,
    alpha: float | None,
    top: int,
) -> Explanation:
    """Explains a score; the shares are of the softmax over all texts and the bank (G = 1).

    Args:
        detector: fitted, with the memory that the score is of.
        features: (1, D), or (V, 1, D), of the image.
        score: what the detector said.
        label: the nearest class.
        known: whether the image is of a class; None where nothing tells.
        gamma: the threshold.
        p: the p-value.
        alpha: what p-values are compared with, where they tell.
        top: how many of each kind, at most.
    """
    space = detector.space
    logits = [part[0] for part in detector.text_logits(features)]
    mass = torch.cat(logits).softmax(dim=0)
    classes, fixed = len(space.labels), len(space.labels) + len(space.negatives)
    negatives = space.negative_words or [f"negative {i}" for i in range(fixed - classes)]
    words = [*space.class_names, *negatives]
    image = features.reshape(-1, features.shape[-1])[0]

    def best(part: slice) -> tuple[tuple[str, float], ...]:
        values, places = mass[part].topk(min(top, len(mass[part])))
        found = zip(places.tolist(), values.tolist(), strict=True)
        return tuple((words[part.start + i], v) for i, v in found)

    dominant: Literal["max", "sum"] | None = None
    if known is False and len(mass) > classes:
        dominant = "max" if mass[classes:].max() > mass[:classes].max() else "sum"
    return Explanation(
        score=score,
        prediction=None if known is None else label if known else UNKNOWN,
        gamma=gamma,
        p=p,
        alpha=alpha,
        labels=best(slice(0, classes)),
        negatives=best(slice(classes, fixed)),
        bank=_remembered(detector, image, mass[fixed:], words, top),
        dominant=dominant,
    )


def _remembered(
    detector: Detector[Any], image: Tensor, mass: Tensor, words: Sequence[str], top: int
) -> tuple[BankEntry, ...]:
    """The entries of the memory that are nearest to an image (D,)."""
    if isinstance(detector, InterNeg):
        rows, ids = detector.bank.features, detector.bank.ids.tolist()
        shares = mass.tolist()
    elif isinstance(detector, RatioNeg):
        memory = detector.memory
        state = memory.state_dict()
        rows, ids = state["rows"], state["ids"].tolist()
        kernel = memory.kernel(image[None], rows)[0] * state["weights"].numpy()
        shares = (kernel / max(float(kernel.sum()), 1e-300)).tolist()
    else:
        return ()
    texts = torch.cat([detector.space.labels, detector.space.negatives])
    cosine = rows @ image
    entries = []
    for i in cosine.topk(min(top, len(rows))).indices.tolist():
        near, places = (texts @ rows[i]).topk(min(NAMED, len(texts)))
        named = tuple((words[n], c) for n, c in zip(places.tolist(), near.tolist(), strict=True))
        entries.append(BankEntry(float(cosine[i]), shares[i], ids[i], named))
    return tuple(entries)

"""CLIPScope: Bayesian scoring with nearest and farthest nouns (Fu et al., WACV 2025)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import exact, id_mass, logits, max_softmax
from openood_interneg.detectors.watched import Watched, reached
from openood_interneg.negatives.mining import Criterion, select
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import LabelSettings, setting


@dataclass(frozen=True)
class CLIPScopeSettings(LabelSettings):
    """Settings of CLIPScope. M is split: half are the nearest nouns, half the farthest."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    corpus: str = setting("wordnet", "where nouns come from, as in the other methods")
    ignore_case: bool = setting(True, "compare words with class names without regard to case")
    num_negatives: int = setting(
        10_000, "M, nearest and farthest nouns together", low=2, high=10_000_000
    )
    mining_prompt: str = setting("the {}", "prompt of nouns when they are ranked")
    nearest_prompt: str = setting("photo", "prompt of the nearest nouns when images are scored")
    farthest_prompt: str = setting("mcm", "prompt of the farthest nouns when images are scored")
    rank_share: float = setting(
        0.05, "a noun's similarity is its ceil(rank_share C)-th largest", low=1e-6, high=1.0
    )
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    update: Literal["sample", "batch"] = setting(
        "sample", "class counts grow after every image (the paper) or after every batch"
    )


# ---- texts -----------------------------------------------------------------------------------


def closeness(labels: Tensor, rank_share: float) -> Criterion:
    """A criterion of `negatives.mining`: the k-th largest cosine with the labels (C, D) counts,
    k = ceil(rank_share C); 50 of ImageNet's 1000, as in the authors' code."""
    classes = len(labels)
    place = min(max(math.ceil(rank_share * classes - 1e-9), 1), classes)

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        similarity = (texts @ labels.t()).kthvalue(classes - place + 1, dim=1).values
        return torch.ones_like(similarity, dtype=torch.bool), similarity

    return look


def reverse(criterion: Criterion) -> Criterion:
    """The same criterion, lowest first."""

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        passes, rank = criterion(texts)
        return passes, -rank

    return look


def space(source: TextSource, settings: CLIPScopeSettings) -> TextSpace:
    """Labels, then as negatives the farthest nouns and the nearest, each most extreme first.

    Words equal to a class name leave the pool, which the authors' code does not do (it takes the
    nearest nouns, so ID names themselves could become negatives).
    """
    nouns = source.corpus(settings).nouns
    labels = source.labels(settings.label_prompt)
    wanted = min(settings.num_negatives, len(nouns))  # no noun is both near and far
    if wanted < settings.num_negatives:
        warnings.warn(f"the corpus has only {wanted} nouns; all are used", stacklevel=2)
    nearer = closeness(labels, settings.rank_share)
    words: list[str] = []
    features: list[Tensor] = []
    for criterion, count, prompt in (
        (reverse(nearer), wanted - wanted // 2, settings.farthest_prompt),
        (nearer, wanted // 2, settings.nearest_prompt),
    ):
        ranked = source.texts(nouns, settings.mining_prompt, "nouns")
        index, _, _ = select(ranked, criterion, count)
        chosen = [nouns[i] for i in index.tolist()]
        words += chosen
        features += source.texts(chosen, prompt, "nouns chosen")
    return TextSpace(
        labels=labels,
        logit_scale=source.backbone.logit_scale,
        negatives=torch.cat(features),
        negative_words=tuple(words),
        class_names=source.class_names,
    )


# ---- scores ----------------------------------------------------------------------------------


def earlier_same(pred: Tensor) -> Tensor:
    """How many earlier entries of (B,) are equal to each entry: (B,) int64."""
    order = pred.argsort(stable=True)
    ranked = pred[order]
    place = torch.arange(len(pred), device=pred.device)
    starts = torch.ones_like(ranked, dtype=torch.bool)
    starts[1:] = ranked[1:] != ranked[:-1]
    first = torch.where(starts, place, torch.zeros_like(place)).cummax(dim=0).values
    return torch.empty_like(place).index_copy_(0, order, place - first)


class CLIPScope(Detector[CLIPScopeSettings]):
    r"""Confidence times ID mass, divided by how often the class was predicted so far.

    .. math:: S(h) = \frac{p_k \, P_{ID}(h)}{\pi_k}, \quad k = \arg\max_i p_i, \quad
        \pi_k = \frac{n_k}{\sum_c n_c}

    p is the softmax over the ID labels, P_ID the ID labels' mass in the softmax over labels and
    nouns. All n_c start at 1; an image is scored with the counts as they are, then n_k grows by
    one, whether the image is ID or not. So a score depends on the order of the stream, but with
    `update: sample` not on its cut into batches: counts within a batch are exact. `update: batch`
    is ours: a whole batch is scored with the counts at its start.
    Source: arXiv 2405.14737.
    """

    Settings = CLIPScopeSettings

    def _fit(self, space: TextSpace) -> None:
        if not len(space.negatives):
            raise DetectorError("CLIPScope needs negative texts; the text space has none")
        self._texts = torch.cat([space.labels, space.negatives])

    def reset(self) -> None:
        """Every class was seen once."""
        self.counts = torch.ones(
            len(self.space.labels), dtype=torch.int64, device=self.space.device
        )

    def state_dict(self) -> dict[str, Tensor]:
        """counts: (C,) int64."""
        return {"counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: no counts, or of another number of classes.
        """
        counts = state.get("counts")
        if counts is None or counts.shape != self.counts.shape:
            raise DetectorError(f"the stored state needs 'counts' of shape {len(self.counts)}")
        self.counts = counts.to(self.counts).clone()

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        pred, confidence = self._confidence(features)
        one = torch.ones_like(pred)
        seen, total = self.counts[pred], self.counts.sum() * one
        if self.settings.update == "sample":
            seen, total = seen + earlier_same(pred), total + torch.arange(len(pred)).to(total)
        gamma = None if self._watched is None else self._gamma(pred)
        self.counts += torch.bincount(pred, minlength=len(self.counts))
        return Scores(pred, _divided(confidence, seen, total), gamma=gamma)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`."""
        self._check(features)
        pred, confidence = self._confidence(features)
        return Scores(pred, _divided(confidence, self.counts[pred], self.counts.sum()))

    def _confidence(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B,) and p_k P_ID (B,), the score before the division by the class's share."""
        space = self.space
        every = logits(features, self._texts, space.logit_scale, self.settings.tau)
        z, y = every[:, : len(space.labels)], every[:, len(space.labels) :]
        confidence = max_softmax(z) * id_mass(z.logsumexp(dim=1), y.logsumexp(dim=1))
        return z.argmax(dim=1), confidence

    def _watch_begins(self) -> None:
        if self._watched is not None:
            self._watched_confidence = self._confidence(self._watched.features)

    def _watched_now(self, watched: Watched) -> Tensor:
        pred, confidence = self._watched_confidence
        return _divided(confidence, self.counts[pred], self.counts.sum())

    def _gamma(self, stream: Tensor) -> Tensor:
        """Thresholds (B,) of images with these classes, each with the counts of its moment."""
        pred, confidence = self._watched_confidence
        counts, total = self.counts.expand(len(stream), -1), self.counts.sum().expand(len(stream))
        if self.settings.update == "sample":
            earlier = torch.nn.functional.one_hot(stream, len(self.counts)).cumsum(0).roll(1, 0)
            earlier[:1] = 0
            counts, total = counts + earlier, total + torch.arange(len(stream)).to(total)
        scores = _divided(confidence, counts[:, pred], total[:, None])  # (B, n)
        return reached(scores, self._watching().tpr)


def _divided(confidence: Tensor, seen: Tensor, total: Tensor) -> Tensor:
    """Confidences by the shares of their classes, float32 on their device."""
    prior = exact(seen) / exact(total)
    return (exact(confidence) / prior).float().to(confidence.device)


# 50th-largest of 1000 cosines and 5,000 + 5,000 nouns; the authors' code has nothing for CIFAR.
OFFICIAL = {"num_negatives": 10_000, "rank_share": 0.05, "update": "sample"}

METHOD = Method(
    name="clipscope",
    title="CLIPScope",
    detector=CLIPScope,
    paper="2405.14737",
    year=2025,
    venue="WACV",
    needs=("negatives",),
    state="how often each class was predicted",
    order_dependent=True,
    space=space,
    presets={"imagenet": OFFICIAL, "cifar10": OFFICIAL, "cifar100": OFFICIAL},
)

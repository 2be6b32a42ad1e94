"""AdaNeg: adaptive negative proxies from a memory of test images (Zhang & Zhang, NeurIPS 2024)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openood_interneg.detectors.adaneg_memory import LabelMemory
from openood_interneg.detectors.base import Detector, DetectorError, Scores, need_entries
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.pseudo_labels import entropy, half_entropy, pseudo_labels
from openood_interneg.detectors.scoring import group_order, grouped_score, logits
from openood_interneg.detectors.watched import LARGEST
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import NegativeSettings, setting


@dataclass(frozen=True)
class AdaNegSettings(NegativeSettings):
    """Settings of AdaNeg; the defaults are those of its ImageNet script."""

    negatives: Literal["inter", "intra", "none"] = setting(
        "intra", "selection of the negative texts: NegLabel's (intra) or InterNeg's (inter)"
    )
    num_negatives: int = setting(10_000, "M, negative texts kept", low=0, high=10_000_000)
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(5, "G, groups over which the score is averaged", low=1)
    theta: float = setting(0.5, "score that separates ID from OOD pseudo-labels", low=0.0, high=1.0)
    gap: float = setting(
        0.5, "g: ID above theta + g(1 - theta), OOD below theta - g theta", low=0.0, high=1.0
    )
    capacity: int = setting(
        10, "L: a label keeps its text and at most L - 1 images", low=1, high=1000
    )
    beta: float = setting(5.0, "sharpness of the sample-adaptive weights", low=0.0)
    weight: float = setting(0.1, "lambda, weight of the static (NegLabel) score", low=0.0)
    sample_adaptive: bool = setting(
        True, "weight a label's memory by its similarity to the image, or all of it equally"
    )
    adaptive_gap: bool = setting(False, "widen the gap of the rarer side of the stream")
    gap_window: int = setting(
        10_000, "pseudo-labels over which the ID share is counted", low=200, high=10_000_000
    )
    eviction: Literal["entropy", "half", "first_come"] = setting(
        "entropy",
        "a full label replaces its least certain image, by entropies in float32 or with "
        "probabilities in half precision (NaN where one underflows), or keeps what came first",
    )
    in_score: Literal["combine", "adaptive", "static", "product"] = setting(
        "combine", "adaptive + lambda static score, one of the two, or their product"
    )
    prediction: Literal["joint", "id"] = setting(
        "joint", "class probabilities over all texts, or over the ID labels alone"
    )


class AdaNeg(Detector[AdaNegSettings]):
    r"""NegLabel's score, plus the same score with texts replaced by what the stream looks like.

    .. math:: S(h) = S_{ada}(h) + \lambda S_{NL}(h), \qquad
        S_{ada} = \operatorname{GRP}(s \cos(h, v_c))

    GRP is the grouped softmax mass of the ID labels. Every label c, ID or negative, has a memory
    of its text feature and at most L - 1 image features; its proxy v_c is the normalised sum of
    the memory (task-adaptive), or the sum weighted by exp(-beta(1 - m h)) (sample-adaptive), and
    its text feature as long as it has no image. For each batch the memory is updated first, then
    the batch is scored: images whose static score is surely ID (OOD) join the memory of their
    best ID (negative) label. A full label replaces its image of largest entropy by one of
    smaller entropy, the entropy being that of the softmax over the image's own side.

    The released code works in fp16, where an entropy is NaN as soon as one probability
    underflows. Over the many negative texts that is most images, over the ID labels few. Nothing
    is smaller than NaN, so such an image never replaces another; but NaN sorts last, so it is
    the first to go when one of finite entropy comes that is below any that is kept. `eviction:
    half` does the same with probabilities rounded to fp16 (logits are not); `eviction:
    first_come`, which keeps the first images of every label, only approximates it, and for ID
    labels badly. Their last slot stays empty in any case (L - 1 images, not L), which is kept
    here.

    The adaptive gap (`pseudo_labels`) and `prediction: id` with lambda = 1 are the variant of
    the CIFAR scripts. Labels get memory when their first image comes: the memory in use grows
    with the labels seen, at most (C + M) L D numbers.

    Source: arXiv 2410.20149, Eqs. 5 to 10, and the code in OpenOOD-VLM.
    """

    Settings = AdaNegSettings

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        if len(space.negatives) < self.settings.groups:
            raise DetectorError(
                f"AdaNeg needs at least as many negative texts as groups; there are "
                f"{len(space.negatives)} for groups = {self.settings.groups}"
            )
        self._texts = torch.cat([space.labels, space.negatives])  # (C + M, D)
        order = group_order(len(space.negatives), self.settings.groups).to(space.device)
        self._columns = order + len(space.labels)  # of the negatives that are scored
        self._known: Tensor | None = None  # logits of the watched images

    def reset(self) -> None:
        """Forgets all images; every proxy is its text again."""
        settings = self.settings
        replace = settings.eviction != "first_come"
        self._memory = LabelMemory(self._texts, settings.capacity, replace=replace)
        # Half of the 200 entries that the window starts with are ID, in turn ID and OOD.
        self._window = deque([1, 0] * 100, maxlen=settings.gap_window)

    def state_dict(self) -> dict[str, Tensor]:
        """Memory rows in use, their labels, the entropies (-1 for an empty slot), the window."""
        return {
            "labels": self._memory.labels,
            "memory": self._memory.features.clone(),
            "entropy": self._memory.entropies,
            "window": torch.tensor(list(self._window), dtype=torch.uint8),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: entries missing, or a memory of another size.
        """
        need_entries(state, ("labels", "memory", "entropy", "window"))
        labels, memory = state["labels"].tolist(), state["memory"].to(self._texts)
        if memory.shape != (len(labels), self.settings.capacity, self._texts.shape[1]):
            raise DetectorError(
                f"the stored memory has shape {tuple(memory.shape)}; this detector keeps "
                f"{self.settings.capacity} slots of {self._texts.shape[1]} for each label"
            )
        if labels and max(labels) >= len(self._texts):
            raise DetectorError("the stored memory belongs to a space with more texts")
        self.reset()
        self._memory.restore(labels, memory, state["entropy"])
        self._window.clear()
        self._window.extend(state["window"].tolist())

    # ---- the stream ----------------------------------------------------------------------

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        every = self._logits(features)
        static = self._grouped(every)
        self._remember(features, every, static)
        return self._scored(features, every, static)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`; an image that `step` would file scores beside itself here, too."""
        self._check(features)
        watched = self._watched is not None and features is self._watched.features
        every = self._known if watched and self._known is not None else self._logits(features)
        static = self._grouped(every)
        return self._scored(features, every, static, list(self._sure(every, static)))

    def _watch_begins(self) -> None:
        watched, self._known = self._watched, None
        if watched is not None and len(watched.features) * len(self._texts) <= LARGEST:
            self._known = self._logits(watched.features)

    def _moment(self) -> object:
        return self._memory.moment, self._share

    def _logits(self, features: Tensor) -> Tensor:
        """(B, C + M) logits of all labels."""
        return logits(features, self._texts, self.space.logit_scale, self.settings.tau)

    def _scored(
        self,
        features: Tensor,
        every: Tensor,
        static: Tensor,
        alone: Sequence[tuple[int, int, float]] = (),
    ) -> Scores:
        """Scores with the memory as it is; each image of `alone` as if it were in it, too."""
        settings, classes = self.settings, len(self.space.labels)
        adapted = self._adapted(features, every)
        slots = [(*row[:2], self._memory.slot(*row[1:])) for row in alone]
        placed = [(image, label, slot) for image, label, slot in slots if slot is not None]
        if placed:
            at = torch.tensor([image for image, *_ in placed], device=features.device)
            labels = torch.tensor([label for _, label, _ in placed], device=features.device)
            beta = settings.beta if settings.sample_adaptive else None
            cosine = self._memory.own_cosine(features[at], [row[1:] for row in placed], beta)
            adapted[at, labels] = cosine * (self.space.logit_scale / settings.tau)
        adaptive = self._grouped(adapted)
        score = {
            "combine": adaptive + settings.weight * static,
            "adaptive": adaptive,
            "static": static,
            "product": adaptive * static,
        }[settings.in_score]
        if settings.prediction == "id":
            every, adapted = every[:, :classes], adapted[:, :classes]
        both = every.softmax(dim=1) + settings.weight * adapted.softmax(dim=1)
        return Scores(both[:, :classes].argmax(dim=1), score)

    def _grouped(self, every: Tensor) -> Tensor:
        """NegLabel's grouped score (B,) of logits (B, C + M)."""
        classes = len(self.space.labels)
        return grouped_score(every[:, :classes], every[:, self._columns], self.settings.groups)

    def _adapted(self, features: Tensor, every: Tensor) -> Tensor:
        """A copy of the logits (B, C + M) with the proxies of labels that have images."""
        adapted, settings = every.clone(), self.settings
        if len(self._memory):
            beta = settings.beta if settings.sample_adaptive else None
            cosine = self._memory.proxy_cosine(features, beta)
            adapted[:, self._memory.labels] = cosine * (self.space.logit_scale / settings.tau)
        return adapted

    def text_logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.text_logits`; of a label with images it is its proxy's."""
        every = self._adapted(features, torch.cat(super().text_logits(features), dim=1))
        classes = len(self.space.labels)
        return every[:, :classes], every[:, classes:]

    @property
    def highest_score(self) -> float:
        """1 + lambda for the combined score."""
        return 1.0 + self.settings.weight if self.settings.in_score == "combine" else 1.0

    def _remember(self, features: Tensor, every: Tensor, static: Tensor) -> None:
        """Files the sure images of a batch under their labels, one by one in batch order."""
        settings = self.settings
        if settings.adaptive_gap:
            is_id, is_ood = pseudo_labels(static, settings.theta, settings.gap)
            self._window.extend([1] * int(is_id.sum()) + [0] * int(is_ood.sum()))
        changed: dict[tuple[int, int], int] = {}  # (memory row, slot) -> image of the batch
        for image, label, value in self._sure(every, static):
            place = self._memory.place(label, value)
            if place is not None:
                changed[place] = image
        self._memory.write(features, changed)

    @property
    def _share(self) -> float:
        return sum(self._window) / len(self._window) if self.settings.adaptive_gap else 0.5

    def _sure(self, every: Tensor, static: Tensor) -> Iterator[tuple[int, int, float]]:
        """Images that are surely ID or OOD: number, label and entropy of each."""
        settings, classes = self.settings, len(self.space.labels)
        is_id, is_ood = pseudo_labels(static, settings.theta, settings.gap, self._share)
        # ID images first: sides never share a label, so their order among each other is free.
        for mask, side, offset in (
            (is_id, every[:, :classes], 0),
            (is_ood, every[:, classes:], classes),
        ):
            images = mask.nonzero()[:, 0]
            if len(images) == 0:
                continue
            side = side[images]
            labels = (side.argmax(dim=1) + offset).tolist()
            measure = half_entropy if settings.eviction == "half" else entropy
            yield from zip(images.tolist(), labels, measure(side).tolist(), strict=True)


_CIFAR = {
    "num_negatives": 70_000,
    "groups": 1,
    "theta": 1e-3,
    "gap": 0.1,
    "capacity": 30,
    "weight": 1.0,
    "beta": 1.0,
    "sample_adaptive": True,
    "adaptive_gap": True,
    "prediction": "id",
}

METHOD = Method(
    name="adaneg",
    title="AdaNeg",
    detector=AdaNeg,
    paper="2410.20149",
    year=2024,
    venue="NeurIPS",
    needs=("negatives",),
    state="at most L - 1 images per label",
    transductive=True,
    order_dependent=True,
    fpr="ood",
    presets={
        "imagenet": {
            "num_negatives": 10_000,
            "groups": 5,
            "theta": 0.5,
            "gap": 0.5,
            "capacity": 10,
            "weight": 0.1,
            "beta": 5.0,
            "sample_adaptive": True,
        },
        # The scripts sweep theta from 1e-5 (CIFAR-100: 1e-4) to 1e-2 and gap over 0 and 0.1;
        # these are one point of that grid.
        "cifar10": _CIFAR,
        "cifar100": _CIFAR,
    },
)

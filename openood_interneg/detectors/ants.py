"""ANTS: negative texts that describe the test images (CVPR 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores, need_entries
from openood_interneg.detectors.caption_files import (
    NOT_GIVEN,
    caption_places,
    caption_tensors,
    need_captions,
    ragged,
    read_captions,
)
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import exact, group_order, grouped_score, logits
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.negatives.words import normalize_text
from openood_interneg.settings import NegativeSettings, SettingsError, setting


@dataclass(frozen=True)
class ANTSSettings(NegativeSettings):
    """Settings of ANTS; the defaults are the paper's method with its ImageNet script's numbers."""

    negatives: Literal["inter", "intra", "none"] = setting(
        "intra", "selection of the negative texts: NegLabel's (intra) or InterNeg's (inter)"
    )
    num_negatives: int = setting(10_000, "M, negative texts kept", low=0, high=10_000_000)
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    captions: str = setting(NOT_GIVEN, "file with the captions of each image (far texts)")
    lookalikes: str = setting(NOT_GIVEN, "file with look-alike names of each class (near texts)")
    in_score: Literal["ada", "far_only", "near_only"] = setting(
        "ada", "far and near scores weighted adaptively, or one of them"
    )
    eta: float = setting(0.5, "quantile of the low scores that becomes theta", low=0.0, high=1.0)
    theta: float = setting(0.8, "first threshold below which an image is captioned", low=0, high=1)
    group_length: int = setting(100, "texts in a group of the grouped score", low=1)
    rounds: int = setting(10, "largest number of caption rounds", low=0, high=10_000)
    round_size: int = setting(200, "a round starts when more images than this are waiting", low=0)
    far_capacity: int = setting(10_000, "largest number of far texts", low=1)
    frequent: int = setting(40, "most often predicted classes that give near texts", low=1)
    start_with_negatives: bool = setting(False, "start the far texts with the mined negatives")


class ANTS(Detector[ANTSSettings]):
    r"""Negative texts that describe the test images (far) and mimic the ID classes (near).

    .. math:: S = \lambda S_{far} + (1 - \lambda) S_{near}, \qquad \lambda = a / (a + b)

    S_far is the softmax mass of the labels against captions of images that scored low, S_near
    against look-alikes of the classes predicted most often; a and b are one minus the means so
    far of their balanced versions (longer groups). Until there are captions (look-alikes) the
    NegLabel score stands in. Per batch: images with a NegLabel score below theta wait; when more
    than `round_size` do, theta becomes the eta quantile of the scores below the edge of the
    histogram's sharpest step, and all that wait are captioned. At batches 10, 50, 90, ... the 40
    most frequent classes are asked for look-alikes. Scores are means over groups of texts of
    `group_length`; fewer texts than that make one group, where the released code divides by zero.

    Captions and look-alikes come from files, so the language model's part is fixed beforehand
    and may not see the stream. When far texts overflow, the newest go, as in the released code.
    `far_only` and `near_only` need only their own file. Scores are kept until the last round, four
    bytes an image; afterwards the memory no longer grows.

    Source: arXiv 2509.03951 and the code in OpenOOD-VLM, in float32 throughout.
    """

    Settings = ANTSSettings

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        settings = self.settings
        if len(space.negatives) == 0:
            raise DetectorError("ANTS needs negative texts for its first scores; there are none")
        self._far = settings.in_score != "near_only"
        self._near = settings.in_score != "far_only"
        if self._far:
            need_captions(space, "ANTS")
        for part in ("lookalike_offsets", "lookalike_rows", "lookalike_texts"):
            if self._near and part not in space.extra:
                raise DetectorError(f"ANTS needs extra['{part}'] (see ants_space)")
        captions = space.extra["caption_texts"] if self._far else space.labels[:0]
        self._pool = torch.cat([captions, space.negatives])  # what far texts are rows of
        self._first = len(captions)

    def reset(self) -> None:
        """No captions, no look-alikes, the first threshold."""
        classes, negatives = len(self.space.labels), len(self.space.negatives)
        start = range(self._first, self._first + negatives)
        self._far_rows = list(start) if self.settings.start_with_negatives else []
        self._near_rows: list[int] = []
        self._near_classes: list[int] = []
        self._waiting: list[int] = []  # places of images in caption_keys
        self._theta = self.settings.theta
        self._scores = self.space.labels.new_zeros(0)
        self._counts = torch.zeros(classes, dtype=torch.int64)
        self._rounds = self._batches = 0
        self._balance = torch.zeros(3, dtype=torch.float64)  # sums of far and near, images

    def state_dict(self) -> dict[str, Tensor]:
        """Rows of far and near texts, waiting images, scores, counts and counters."""

        def whole(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64)

        return {
            "far_rows": whole(self._far_rows),
            "near_rows": whole(self._near_rows),
            "near_classes": whole(self._near_classes),
            "waiting": whole(self._waiting),
            "theta": torch.tensor(self._theta, dtype=torch.float64),
            "scores": self._scores.clone(),
            "counts": self._counts.clone(),
            "counters": whole([self._rounds, self._batches]),
            "balance": self._balance.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: entries missing, or rows that this space does not have.
        """
        self.reset()
        need_entries(state, self.state_dict())
        if len(state["counts"]) != len(self.space.labels) or (
            len(state["far_rows"]) and int(state["far_rows"].max()) >= len(self._pool)
        ):
            raise DetectorError("the stored state belongs to another text space")
        for name in ("far_rows", "near_rows", "near_classes", "waiting"):
            setattr(self, f"_{name}", state[name].tolist())
        self._theta = float(state["theta"])
        self._scores = state["scores"].to(self.space.device).clone()
        self._counts, self._balance = state["counts"].clone(), state["balance"].clone()
        self._rounds, self._batches = state["counters"].tolist()

    # ---- the stream ----------------------------------------------------------------------

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, space = self.settings, self.space
        id_logits = logits(features, space.labels, space.logit_scale, settings.tau)
        pred = id_logits.argmax(dim=1)
        static = self._mass(id_logits, features, space.negatives, settings.group_length)
        low = (static < self._theta).nonzero()[:, 0]
        places = caption_places(space, ids[low.to(ids.device)]).tolist() if self._far else []

        # Nothing was remembered up to here; from here on nothing can be refused.
        self._batches += 1
        self._counts += torch.bincount(pred.cpu(), minlength=len(self._counts))
        if self._far and self._rounds < settings.rounds:  # else nobody asks for them any more
            self._scores = torch.cat([self._scores, static])
            self._waiting += places
            if len(self._waiting) > settings.round_size:
                self._caption_round()
        if self._near and self._batches >= 10 and (self._batches - 10) % 40 == 0:
            self._ask_for_lookalikes()

        far, near, new = self._scored(features, id_logits, static)
        if settings.in_score == "ada":
            self._balance += torch.cat([new, new.new_tensor([len(features)])])
        return Scores(pred, self._mixed(far, near))

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`; far and near are weighted as by the last batch."""
        self._check(features)
        space, settings = self.space, self.settings
        id_logits = logits(features, space.labels, space.logit_scale, settings.tau)
        static = self._mass(id_logits, features, space.negatives, settings.group_length)
        far, near, _ = self._scored(features, id_logits, static)
        return Scores(id_logits.argmax(dim=1), self._mixed(far, near))

    def _scored(
        self, features: Tensor, id_logits: Tensor, static: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B,) against far and against near texts; sums (2,) of the balanced ones."""
        settings, space = self.settings, self.space
        long = 10 * settings.group_length
        far, far_balanced, near, near_balanced = (static,) * 4
        if self._far and self._far_rows:
            texts = self._pool[self._far_rows]
            # Up to ten groups' worth of far texts are scored as one group.
            length = settings.group_length if len(texts) > long else len(texts)
            far = self._mass(id_logits, features, texts, length)
            far_balanced = self._mass(id_logits, features, texts, max(length, long))
        if self._near and self._near_rows:
            texts = space.extra["lookalike_texts"][self._near_rows]
            near = self._mass(id_logits, features, texts, settings.group_length)
            near_balanced = self._mass(id_logits, features, texts.repeat(10, 1), long)
        sums = torch.stack([exact(far_balanced).sum(), exact(near_balanced).sum()])
        return far, near, sums.cpu()

    def _mixed(self, far: Tensor, near: Tensor) -> Tensor:
        if self.settings.in_score != "ada":
            return far if self.settings.in_score == "far_only" else near
        a, b = (1 - self._balance[:2] / self._balance[2].clamp_min(1)).tolist()
        share = a / (a + b) if a + b > 0 else 0.5
        return share * far + (1 - share) * near

    def _mass(self, id_logits: Tensor, features: Tensor, texts: Tensor, length: int) -> Tensor:
        """Grouped score (B,) against texts (n, D) in groups of `length` or a little more."""
        groups = max(len(texts) // length, 1)
        texts = texts[group_order(len(texts), groups).to(texts.device)]
        negative = logits(features, texts, self.space.logit_scale, self.settings.tau)
        return grouped_score(id_logits, negative, groups)

    def _caption_round(self) -> None:
        self._theta = far_threshold(self._scores, self.settings.eta, self._theta)
        extra = self.space.extra
        fresh: dict[int, None] = {}
        offsets, rows = extra["caption_offsets"].tolist(), extra["caption_rows"].tolist()
        for place in self._waiting:
            fresh |= dict.fromkeys(rows[offsets[place] : offsets[place + 1]])
        self._waiting = []
        self._far_rows = (list(fresh) + self._far_rows)[-self.settings.far_capacity :]
        self._rounds += 1
        if self._rounds == self.settings.rounds:
            self._scores = self._scores[:0].clone()

    def _ask_for_lookalikes(self) -> None:
        # Ties go to the lower class; of the released code's counter, to the one seen first.
        order = self._counts.argsort(descending=True, stable=True)[: self.settings.frequent]
        top = [c for c in order.tolist() if self._counts[c] > 0]
        kept = [c for c in self._near_classes if c in set(top)]
        self._near_classes = kept + [c for c in top if c not in set(kept)]
        extra = self.space.extra
        offsets, rows = extra["lookalike_offsets"].tolist(), extra["lookalike_rows"].tolist()
        found: dict[int, None] = {}
        for label in self._near_classes:
            found |= dict.fromkeys(rows[offsets[label] : offsets[label + 1]])
        self._near_rows = list(found)


def far_threshold(scores: Tensor, eta: float, old: float) -> float:
    """The eta quantile of the scores below the sharpest step of their histogram.

    Bins are 0.1 wide; u is the edge between the two neighbours whose counts differ most (the
    first of several). Without a score below u the old threshold stays.
    """
    values = scores.cpu().numpy()
    edges = np.arange(0, 1.1, 0.1)
    counts, _ = np.histogram(values, edges)
    edge = edges[np.abs(np.diff(counts)).argmax() + 1]
    below = values[values < edge]
    return float(np.percentile(below, 100 * eta)) if len(below) else old


def ants_space(source: TextSource, settings: ANTSSettings) -> TextSpace:
    """The common space, captions and look-alikes, both encoded without a template.

    A look-alike file has class names where a caption file has images.
    """
    space = source.build(settings)
    extra: dict[str, Tensor] = {}
    if settings.in_score != "near_only":
        captions = {
            image: [text.rstrip(".") for text in texts]
            for image, texts in read_captions(settings.captions).items()
        }
        extra |= caption_tensors(source.backbone, captions, "{}")
    if settings.in_score != "far_only":
        table = {
            normalize_text(name): texts
            for name, texts in read_captions(settings.lookalikes, "lookalikes").items()
        }
        lists = [table.get(normalize_text(name), ()) for name in source.class_names]
        if not any(lists):
            raise SettingsError("lookalikes: the file has no line for any of the class names")
        names = ("lookalike_texts", "lookalike_offsets", "lookalike_rows")
        extra |= dict(zip(names, ragged(lists, source.backbone, "{}"), strict=True))
    return replace(space, extra={**space.extra, **extra})


METHOD = Method(
    name="ants",
    title="ANTS",
    detector=ANTS,
    space=ants_space,
    paper="2509.03951",
    year=2026,
    venue="CVPR",
    needs=("negatives", "captions"),
    state="far texts, class counts, scores",
    transductive=True,
    order_dependent=True,
    fpr="ood",
    # The ImageNet script takes far_only; its comment: far_only and near_only are more accurate for
    # far and near OOD. There is no CIFAR script.
    presets={
        name: {"in_score": "far_only", "eta": 0.5, "rounds": 10, "group_length": 100}
        for name in ("imagenet", "cifar10", "cifar100")
    },
)

"""RatioNeg: two like-for-like likelihood ratios, text against text and image against image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.excess import ExcessDensity
from openood_interneg.detectors.image_memory import ImageMemory
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import exact, log_sum, logits
from openood_interneg.detectors.shots import Null, first_of_each_class, leave_one_out_concentration
from openood_interneg.detectors.watched import Watched, rank_reached
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InversionSettings, NegativeSettings, setting

LEAST_WEIGHT = 0.01  # an image that is less likely OOD is not remembered


@dataclass(frozen=True)
class RatioNegSettings(InversionSettings, NegativeSettings):
    """Settings of RatioNeg; one default for every benchmark."""

    num_negatives: int = setting(
        70_000, "M, negative texts kept; the default keeps all that qualify", low=0, high=10_000_000
    )
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    memory: Literal["image", "inverted"] = setting(
        "image", "how images are compared with memory and shots: as features, or as inversions"
    )
    memory_capacity: int = setting(500, "K, images remembered", low=1)
    prior_weight: float = setting(10.0, "n0, weight of the ID density in the memory's", low=1e-6)
    shots_per_class: int = setting(
        16, "shots, ID images of each class that p_ID and the p-values come from", low=2
    )
    update: Literal["batch", "sample"] = setting(
        "batch", "score a batch again with the memory after it, or causally, image by image"
    )
    refresh: bool = setting(False, "keep remembered images that explain new ones, let others fade")
    band: bool = setting(False, "count only the excess of p-values beyond a DKW band")

    @property
    def reads_id_images(self) -> bool:
        """Always: they are the ID side of the image ratio."""
        return True

    @property
    def keeps_shots(self) -> bool:
        """Always."""
        return True

    @property
    def inverts(self) -> bool:
        """Whether memory and shots are inverted before they are compared with images."""
        return self.memory == "inverted"


# ---- pure functions ------------------------------------------------------------------------


def text_ratio(id_logits: Tensor, negative_lse: Tensor) -> Tensor:
    """a(h): largest ID logit minus the log-sum over labels and negatives.

    Args:
        id_logits: (B, C).
        negative_lse: (B,) float64 log-sums over the negatives; -inf for none.

    Returns:
        (B,) float64, at most 0: the log of the joint softmax of the best label.
    """
    joint = torch.logaddexp(exact(id_logits.logsumexp(dim=1)), negative_lse)
    return exact(id_logits.amax(dim=1)) - joint


class RatioNeg(Detector[RatioNegSettings]):
    r"""A product of two likelihood ratios, neither of which carries the modality gap.

    .. math::
        a(h) &= \max_i s \cos(h, e_i) - \log\Bigl(\sum_i e^{s \cos(h, e_i)}
                + \sum_j e^{s \cos(h, n_j)}\Bigr) \\
        r(h) &= \log p_{ID}(h) - \log p_{mem}(h), \quad
        p_{mem}(h) = \frac{n_0 p_{ID}(h) + \sum_m w_m e^{k \cos(h, m)}}{n_0 + \sum_m w_m} \\
        S(h) &= \frac{a(h) + r(h) - \operatorname{mean}_{shots}}{\operatorname{std}_{shots}}

    p_ID is the mean kernel of the shots (the ID images that the image proxies are made of, each
    left out of its own density). The p-value of an image is its rank among the shots' scores, so
    a threshold on it keeps its false alarms as the memory grows. An image is remembered with the
    weight w = max(0, 1 - 1/f(p)), f being the density of the stream's p-values
    (`excess.ExcessDensity`): the local false-discovery rate.

    With `update: batch` a batch's images are scored again with the memory after it, each without
    its own row; `update: sample` is causal: an image depends on earlier ones only.

    Cosines are float32 products on the space's device; kernels, sums and logarithms are float64 on
    the CPU, where the sequential part runs.

    Args:
        settings: hyper-parameters.
        inverter: (h, ids) -> unit rows; needed for `memory: inverted` alone.

    Source: this package; no publication.
    """

    Settings = RatioNegSettings
    has_p = True

    def __init__(self, settings: RatioNegSettings | None = None, inverter: Inverter | None = None):
        super().__init__(settings)
        self.inverter = inverter

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        settings = self.settings
        if space.shots is None or space.shot_labels is None:
            raise DetectorError("RatioNeg compares images with ID images; give some of each class")
        images, classes = first_of_each_class(
            space.shots, space.shot_labels, settings.shots_per_class
        )
        rows = images
        if settings.memory == "inverted":
            rows = self._inverted(images, torch.arange(len(images), dtype=torch.int64))
        count = len(images)
        if count < 2:
            raise DetectorError("RatioNeg needs at least two ID images")
        cosine = images @ rows.t()
        self.concentration = leave_one_out_concentration(cosine, classes)
        self._images, self._shots = images, rows
        self.excess = ExcessDensity(
            settings.prior_weight, settings.memory_capacity, count, band=settings.band
        )
        self.memory = ImageMemory(
            settings.memory_capacity, images, self.concentration, refresh=settings.refresh
        )
        kernel = self.memory.kernel(images, rows)
        np.fill_diagonal(kernel, 0)
        self._density = kernel.sum(axis=1) / (count - 1)  # p_ID of the shots
        self._static = self._text_ratio(images)[0] + np.log(self._density)

    def reset(self) -> None:
        """Empties the memory and forgets the stream's p-values."""
        self.memory.reset()
        self.excess.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """The memory and the histogram of p-values."""
        parts = (("memory", self.memory), ("excess", self.excess))
        return {f"{name}.{k}": v for name, part in parts for k, v in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: ids missing, or values that do not fit this detector.
        """
        try:
            for name, part in (("memory", self.memory), ("excess", self.excess)):
                start = f"{name}."
                part.load_state_dict(
                    {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
                )
        except KeyError as error:
            raise DetectorError(f"the stored state lacks {error}") from None
        except ValueError as error:
            raise DetectorError(str(error)) from None

    def _inverted(self, features: Tensor, ids: Tensor) -> Tensor:
        if self.inverter is None:
            raise DetectorError("memory 'inverted' needs an inverter; or set memory: image")
        return self.inverter(features, ids)

    # ---- scoring -------------------------------------------------------------------------

    def _text_ratio(self, features: Tensor) -> tuple[np.ndarray, Tensor]:
        """a(h) as (B,) float64, and the predicted classes (B,)."""
        space, tau = self.space, self.settings.tau
        own = logits(features, space.labels, space.logit_scale, tau)
        negative = log_sum(features, space.negatives, space.logit_scale, tau)
        return text_ratio(own, negative).cpu().numpy(), own.argmax(dim=1)

    def _ratio(
        self, density: np.ndarray, evidence: np.ndarray | float, mass: np.ndarray | float
    ) -> np.ndarray:
        """log of p_mem from p_ID, the memory's weighted kernel sums and its total weight."""
        prior = self.settings.prior_weight
        return np.log((prior * density + evidence) / (prior + mass))

    def _null(self) -> Null:
        """The shots' scores, and the watched images', with the memory as it is."""
        memory = self.memory
        known = memory.evidence[: len(self._static)]
        scores = self._static - self._ratio(self._density, known, memory.mass)
        mean, deviation = float(scores.mean()), max(float(scores.std()), 1e-12)
        gamma = None
        if self._watched is not None:
            raw = np.partition(self._watched_raw(), rank := self._rank)[rank]
            gamma = float((raw - mean) / deviation)
        return Null(np.sort(scores), mean, deviation, gamma)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`; with p-values."""
        self._check(features)
        memory, null = self.memory, self._null()
        text, pred = self._text_ratio(features)
        density = memory.kernel(features, self._shots).mean(axis=1)
        raw = text + np.log(density) - self._ratio(density, memory.sums(features), memory.mass)
        return self._scores(features, pred, null.standard(raw), null.p(raw))

    # ---- watched ID images ---------------------------------------------------------------

    def _watch_begins(self) -> None:
        watched = self._watched
        self.memory.watch(None if watched is None else watched.features)
        if watched is None:
            return
        features = watched.features
        text, _ = self._text_ratio(features)
        self._watched_density = self.memory.kernel(features, self._shots).mean(axis=1)
        self._watched_static = text + np.log(self._watched_density)
        self._rank = rank_reached(len(features), watched.tpr)

    def _watched_raw(self) -> np.ndarray:
        memory = self.memory
        known = memory.evidence[len(self._static) :]
        return self._watched_static - self._ratio(self._watched_density, known, memory.mass)

    def _watched_now(self, watched: Watched) -> Tensor:
        score = self._null().standard(self._watched_raw())
        return torch.from_numpy(score).float().to(watched.features.device)

    def _scores(self, features: Tensor, pred: Tensor, score: np.ndarray, p: np.ndarray) -> Scores:
        score_, p_ = (torch.from_numpy(x).float().to(features.device) for x in (score, p))
        return Scores(pred, score_, p_)

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, memory = self.settings, self.memory
        text, pred = self._text_ratio(features)
        rows = features
        if settings.memory == "inverted":
            rows = self._inverted(features, ids)
        own = memory.kernel(features, self._shots)  # (B, n)
        density = own.mean(axis=1)
        fixed = text + np.log(density)
        at_probes = memory.at_probes(rows, own if rows is features else None)
        batch = memory.batch(features, rows, at_probes, ids)
        score, p, gamma = (np.empty(len(features)) for _ in range(3))
        null = self._null()
        for i in range(len(features)):
            raw = fixed[i] - self._ratio(density[i], batch.evidence(i), memory.mass)
            score[i], p[i] = null.standard(raw), null.p(raw)
            gamma[i] = null.gamma
            weight = self.excess.weight(p[i])
            changed = batch.fade()
            if weight > LEAST_WEIGHT:
                batch.remember(i, weight, settings.prior_weight * density[i])
                changed = True
            if self.excess.just_fitted:
                changed |= batch.settle()
            if changed:
                null = self._null()
        if settings.update == "batch":
            evidence, mass = batch.evidence_of_others()
            raw = fixed - self._ratio(density, evidence, mass)
            score, gamma[:] = null.standard(raw), null.gamma
        batch.close()
        found = self._scores(features, pred, score, p)
        if self._watched is None:
            return found
        return found.judged_by(torch.from_numpy(gamma).to(found.score))


METHOD = Method(
    name="rationeg",
    title="RatioNeg",
    detector=RatioNeg,
    paper="this package",
    year=2026,
    venue="unpublished",
    needs=("negatives", "ID images"),
    state="last K images that were likely OOD, and a histogram of p-values",
    order_dependent=True,
    transductive=True,
    fpr="ood",
    inverts=True,
    causal={"update": "sample"},
    presets={"imagenet": {"shots_per_class": 4}, "cifar10": {}, "cifar100": {}},
)

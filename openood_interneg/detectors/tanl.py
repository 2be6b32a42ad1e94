"""TANL: test-time activated negative labels (CVPR 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores, need_entries
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import exact, id_mass, logits
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import LARGEST, NegativeSettings, setting

NOISE_IMAGES = 15  # three of each of five kinds


@dataclass(frozen=True)
class TANLSettings(NegativeSettings):
    """Settings of TANL; the defaults are those of its ImageNet script."""

    negatives: Literal["inter", "intra", "none"] = setting(
        "intra", "order of the candidate texts; TANL takes the whole corpus"
    )
    num_negatives: int = setting(
        1_000_000,
        "candidate texts; a number above the corpus size takes all",
        low=0,
        high=10_000_000,
    )
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    beta: int = setting(
        1000, "activated negative texts that are scored with", low=1, high=10_000_000
    )
    alpha: float = setting(
        0.0, "share of the queues in the activations; the rest is the batch", low=0.0, high=1.0
    )
    gap: float = setting(
        0.5, "g: ID above theta + g(1 - theta), OOD below theta - g theta", low=0.0, high=1.0
    )
    capacity: int = setting(300, "L, images in each activation queue", low=1, high=10_000)
    gamma: int = setting(
        1, "step of the activation-aware score; 0 uses all activated texts at once", low=0
    )
    score_capacity: int = setting(
        20_000, "scores from which theta is found", low=1, high=10_000_000
    )
    seed: int = setting(
        0, "seed of the noise images and of the order of the label texts", low=0, high=LARGEST
    )


def noise_images(size: int, seed: int = 0) -> Tensor:
    """The 15 images that stand for OOD before any was seen: three each of five kinds of noise.

    Gaussian, uniform, Poisson(5), Gamma(2, 1) and binary; the unbounded ones are stretched to
    [0, 1] over their three images together. They go to the image tower as they are, without
    CLIP's mean and deviation, as in the released code (which draws them anew in each run).

    Returns:
        (15, 3, size, size) float32 in [0, 1].
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    shape = (NOISE_IMAGES // 5, 3, size, size)

    def stretched(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / (values.max() - values.min())

    kinds = (
        stretched(rng.standard_normal(shape)),
        rng.random(shape),
        stretched(rng.poisson(5.0, shape)),
        stretched(rng.gamma(2.0, 1.0, shape)),
        rng.random(shape) >= 0.5,
    )
    return torch.from_numpy(np.concatenate([kind.astype(np.float32) for kind in kinds]))


def tanl_space(source: TextSource, settings: TANLSettings) -> TextSpace:
    """The common space plus `extra["noise"]`, (15, D) unit features of the noise images."""
    space = source.build(settings)
    backbone = source.backbone
    noise = backbone.encode_image(noise_images(backbone.preprocess.size, settings.seed))
    return replace(space, extra={**space.extra, "noise": noise})


def activations(id_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """a(x): the negatives' part of the softmax over all texts, (B, N)."""
    total = torch.logaddexp(id_logits.logsumexp(1), negative_logits.logsumexp(1))
    return (negative_logits - total[:, None]).exp()


def activation_aware_score(id_logits: Tensor, activated: Tensor, gamma: int) -> Tensor:
    """Mean over growing prefixes of the ID softmax mass.

    S = mean_k E / (E + Z_k), k = gamma, 2 gamma, ..., the last one cut at beta, where Z_k sums
    the k most activated negatives; gamma = 0 takes k = beta alone. One cumulative logsumexp
    gives every log Z_k.

    Args:
        id_logits: (B, C).
        activated: (B, beta) logits, the most activated text first.
        gamma: step of the prefixes.

    Returns:
        (B,)
    """
    id_lse = id_logits.logsumexp(dim=1)
    if gamma == 0:
        return id_mass(id_lse, activated.logsumexp(dim=1))
    count = activated.shape[1]
    ends = torch.arange(gamma, count + gamma, gamma, device=activated.device).clamp_max(count)
    return id_mass(id_lse, activated.logcumsumexp(dim=1)[:, ends - 1]).mean(dim=1)


def otsu_threshold(scores: Tensor) -> float:
    """Threshold in {0, 0.01, ..., 0.99} with the smallest within-class variance.

    A class is what lies below, or at and above, the threshold; weights are the classes' shares,
    and an empty class rules a threshold out. Of ties the middle one (the later of two) is taken.

    Args:
        scores: (n,) in [0, 1].
    """
    values = exact(scores).sort().values
    grid = torch.arange(100, dtype=torch.float64, device=values.device) / 100
    below = torch.searchsorted(values, grid)  # scores < threshold
    n = len(values)
    # Sums of a class from running sums of the sorted scores, about the mean to lose no digits.
    centred = values - values.mean()
    sums = torch.cat([centred.new_zeros(1), centred.cumsum(0)])
    first, last = sums[below], sums[n] - sums[below]
    counts = exact(below)
    # within = total - between, and the total is the same for every threshold.
    between = first**2 / counts + last**2 / (n - counts)
    within = ((centred**2).sum() - between) / n
    within[(below == 0) | (below == n)] = float("inf")
    best = within.min()
    # Thresholds between the same two scores are ties: equal counts, hence equal numbers.
    ties = (within == best).nonzero()[:, 0]
    return float(grid[ties[len(ties) // 2]])


class TANL(Detector[TANLSettings]):
    r"""Softmax mass of the ID labels against the corpus texts that OOD images activate.

    With activations a(x), the negatives' part of the softmax over labels and corpus, and two
    queues of activations of pseudo-ID (Q+) and pseudo-OOD (Q-) images, the texts with the
    largest mean(Q-) - mean(Q+) are the activated ones, and

    .. math:: S(h) = \frac{1}{K} \sum_{k} \frac{\sum_i e^{s h e_i}}
        {\sum_i e^{s h e_i} + \sum_{j \le k} e^{s h n_j}}

    over prefixes of them, most activated first (`activation_aware_score`). A batch is scored
    with the queues, the scores' Otsu threshold theta gives its pseudo-labels, the mean
    activations of those are mixed with the queues' (weight 1 - alpha), texts are ranked again
    and the batch is scored again; then its pseudo-labelled images join the queues.

    alpha = 1 leaves the batch out: a score then depends on earlier batches alone. alpha = 0, the
    ImageNet script's choice, ranks texts by the batch itself wherever it has pseudo-labels: an
    image's score then depends on the images it shares a batch with, itself included, so such
    figures do not compare with those of methods that see one image at a time.

    Needs `extra["noise"]` (`tanl_space`). Memory is 2 L N numbers.

    The released code shuffles the first rows of both queues without a seed, which decides only
    which of them leave a full queue first. Here the label texts are shuffled by `seed` and the
    noise images stay in their order, so runs with different shuffles differ in the noise rows,
    too, once Q- is full. Source: the code in OpenOOD-VLM, in float32 throughout.
    """

    Settings = TANLSettings

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        if len(space.negatives) == 0:
            raise DetectorError("TANL needs candidate negative texts; there are none")
        if "noise" not in space.extra:
            raise DetectorError(
                "TANL needs the features of its noise images as extra['noise']; build the text "
                "space with tanl_space"
            )
        self._texts = torch.cat([space.labels, space.negatives])
        self._beta = min(self.settings.beta, len(space.negatives))
        capacity = self.settings.capacity
        generator = torch.Generator().manual_seed(self.settings.seed)
        order = torch.randperm(len(space.labels), generator=generator)[-capacity:]
        noise = space.extra["noise"]
        self._first_id = self._activations(space.labels[order.to(space.device)])[0]
        self._first_ood = self._activations(noise)[0][-capacity:]
        chosen = self._activated(self._first_ood.mean(0) - self._first_id.mean(0))
        rows, texts = (torch.cat([space.labels, part]) for part in (noise, self._texts[chosen]))
        every = logits(rows, texts, space.logit_scale, self.settings.tau)
        classes = len(space.labels)
        first = activation_aware_score(every[:, :classes], every[:, classes:], self.settings.gamma)
        self._first_scores = first[-self.settings.score_capacity :]

    def reset(self) -> None:
        """Back to the label texts as ID and the noise images as OOD."""
        self._id, self._ood = self._first_id, self._first_ood  # (<= L, N) each
        self._scores = self._first_scores

    def state_dict(self) -> dict[str, Tensor]:
        """Both activation queues and the scores."""
        return {
            "id": self._id.clone(),
            "ood": self._ood.clone(),
            "scores": self._scores.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: entries missing, or queues over another number of texts.
        """
        need_entries(state, ("id", "ood", "scores"))
        texts = len(self.space.negatives)
        for name in ("id", "ood"):
            rows = state[name]
            if rows.dim() != 2 or rows.shape[1] != texts or len(rows) > self.settings.capacity:
                raise DetectorError(
                    f"the stored queue '{name}' has shape {tuple(rows.shape)}; this detector "
                    f"keeps at most {self.settings.capacity} rows over {texts} texts"
                )
        device = self._texts.device
        self._id, self._ood = state["id"].to(device).clone(), state["ood"].to(device).clone()
        self._scores = state["scores"].to(device).clone()

    # ---- the stream ----------------------------------------------------------------------

    def _activations(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Activations (B, N) and logits (B, C + N)."""
        every = logits(features, self._texts, self.space.logit_scale, self.settings.tau)
        classes = len(self.space.labels)
        return activations(every[:, :classes], every[:, classes:]), every

    def _pred(self, every: Tensor) -> Tensor:
        return every[:, : len(self.space.labels)].argmax(dim=1)

    def _activated(self, difference: Tensor) -> Tensor:
        """Columns of the beta texts with the largest difference of activations, largest first."""
        order = difference.argsort(descending=True, stable=True)[: self._beta]
        return order + len(self.space.labels)

    def _score(self, every: Tensor, columns: Tensor) -> Tensor:
        classes = len(self.space.labels)
        return activation_aware_score(every[:, :classes], every[:, columns], self.settings.gamma)

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings = self.settings
        rows, every = self._activations(features)
        mean_id, mean_ood = self._id.mean(0), self._ood.mean(0)
        score = self._score(every, self._activated(mean_ood - mean_id))
        self._scores = torch.cat([self._scores, score])[-settings.score_capacity :]

        theta = otsu_threshold(self._scores)
        fresh_id = rows[score > theta + settings.gap * (1 - theta)]
        fresh_ood = rows[score < theta - settings.gap * theta]
        if settings.alpha < 1 and len(fresh_id):
            mean_id = torch.lerp(fresh_id.mean(0), mean_id, settings.alpha)
        if settings.alpha < 1 and len(fresh_ood):
            mean_ood = torch.lerp(fresh_ood.mean(0), mean_ood, settings.alpha)
        columns = self._activated(mean_ood - mean_id)
        final = self._score(every, columns)
        gamma = None
        if self._watched is not None:  # ranked by this batch, as its images are
            scores = self._score(self._activations(self._watched.features)[1], columns)
            gamma = torch.full_like(final, self._watched.threshold(scores))

        self._id = torch.cat([self._id, fresh_id])[-settings.capacity :]
        self._ood = torch.cat([self._ood, fresh_ood])[-settings.capacity :]
        return Scores(self._pred(every), final, gamma=gamma)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`: texts are ranked by the queues alone."""
        self._check(features)
        every = self._activations(features)[1]
        columns = self._activated(self._ood.mean(0) - self._id.mean(0))
        return Scores(self._pred(every), self._score(every, columns))


_CIFAR = {"beta": 1000, "alpha": 0.95, "gap": 0.2, "capacity": 300, "gamma": 1}

METHOD = Method(
    name="tanl",
    title="TANL",
    detector=TANL,
    paper="2603.25250",
    year=2026,
    venue="CVPR",
    needs=("negatives",),
    state="activations of at most 2 L images, 20,000 scores",
    transductive=True,
    order_dependent=True,
    fpr="ood",
    space=tanl_space,
    presets={
        # official.sh loops gamma over 2, 1 and 0.
        "imagenet": {"beta": 1000, "alpha": 0.0, "gap": 0.5, "capacity": 300, "gamma": 1},
        # The active block of cifar.sh is CIFAR-100's; CIFAR-10's is commented out.
        "cifar10": _CIFAR,
        "cifar100": _CIFAR,
    },
)

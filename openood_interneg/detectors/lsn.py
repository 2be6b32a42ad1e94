"""LSN: learned prompts that say no (Nie et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import max_softmax
from openood_interneg.detectors.trained_base import (
    TAU_HELP,
    TrainedSettings,
    trained_presets,
    trained_space,
)
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import setting
from openood_interneg.vlm.trained_prompts import (
    learned_prompts,
    pick,
    read_checkpoint,
)


@dataclass(frozen=True)
class LSNSettings(TrainedSettings):
    """Settings of LSN."""

    tau: float = setting(1.0, TAU_HELP, low=1e-6)
    negative_tau: float = setting(5.0, "temperature of the dissimilarities", low=1e-6)


class LSN(Detector[LSNSettings]):
    r"""MCM of a learned prompt, plus the same of dissimilarities to learned negative prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T) + \frac{1}{K} \sum_k
        \max_i \operatorname{softmax}_i((1 - \cos(h, n_{ki})) / T')

    Every class has K negative prompts, "not i" (`extra["no"]`, (K, C, D)). T = 1, T' = 5 and
    K = 3 are the code's. Source: Nie et al., ICLR 2024.
    """

    Settings = LSNSettings

    def _fit(self, space: TextSpace) -> None:
        if "no" not in space.extra:
            raise DetectorError("LSN needs its negative prompts as extra['no']")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, no = self.settings, self.space.extra["no"]
        cosine = features @ self.space.labels.t()
        unlike = (1 - features @ no.transpose(1, 2)) / settings.negative_tau  # (K, B, C)
        absent = max_softmax(unlike.flatten(0, 1)).view(unlike.shape[:2]).mean(dim=0)
        return Scores(cosine.argmax(dim=1), max_softmax(cosine / settings.tau) + absent)


def lsn_space(source: TextSource, settings: LSNSettings) -> TextSpace:
    """Labels behind `yes.ctx`, and class names behind `no1.ctx`, `no2.ctx`, ..."""
    tensors = read_checkpoint(settings.checkpoint)

    def encode(context: Tensor) -> Tensor:
        names, position = source.class_names, settings.class_position
        return learned_prompts(source.backbone, context, names, position=position)

    sets: list[Tensor] = []
    while True:  # no1 has to be there; the first number that is not ends the list
        context = pick(tensors, f"no{len(sets) + 1}.ctx", optional=bool(sets))
        if context is None:
            break
        sets.append(encode(context))
    return trained_space(source, encode(pick(tensors, "yes.ctx")), no=torch.stack(sets))


METHOD = Method(
    name="lsn",
    title="LSN",
    detector=LSN,
    space=lsn_space,
    paper="openreview:nanyAujl6e",
    year=2024,
    venue="ICLR",
    needs=("extra file",),
    presets=trained_presets(tau=1.0, negative_tau=5.0),
)

"""NegPrompt: learned negative prompts of each class (Li et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.method import Method
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
class NegPromptSettings(TrainedSettings):
    """Settings of NegPrompt."""

    tau: float = setting(1.0, TAU_HELP, low=1e-6)


class NegPrompt(Detector[NegPromptSettings]):
    r"""MCM with learned negative prompts in the denominator.

    .. math:: S(h) = \max_i \frac{e^{\cos(h, e_i) / T}}
        {\sum_i e^{\cos(h, e_i) / T} + \sum_j e^{\cos(h, n_j) / T}}

    Every class has k negative prompts, so there are C k of them. Source: arXiv 2404.03248.
    """

    Settings = NegPromptSettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, classes = self.space, len(self.space.labels)
        cosine = features @ torch.cat([space.labels, space.negatives]).t() / self.settings.tau
        own = cosine[:, :classes]
        return Scores(own.argmax(dim=1), (own.amax(dim=1) - cosine.logsumexp(dim=1)).exp())


def negprompt_space(source: TextSource, settings: NegPromptSettings) -> TextSpace:
    """Labels behind `ctx_positive`; negatives: every class name behind each `ctx_negative`."""
    tensors = read_checkpoint(settings.checkpoint)
    names, position = source.class_names, settings.class_position

    def encode(context: Tensor) -> Tensor:
        return learned_prompts(source.backbone, context, names, position=position, stop="")

    # (k, n, w) shared by all classes, or (C, k, n, w): k prompts along the last axis but two.
    positive = pick(tensors, "ctx_positive").unbind(dim=-3)
    negative = pick(tensors, "ctx_negative").unbind(dim=-3)
    return trained_space(
        source, encode(positive[0]), torch.cat([encode(part) for part in negative])
    )


METHOD = Method(
    name="negprompt",
    title="NegPrompt",
    detector=NegPrompt,
    space=negprompt_space,
    paper="2404.03248",
    year=2024,
    venue="CVPR",
    needs=("extra file",),
    presets=trained_presets(tau=1.0),
)

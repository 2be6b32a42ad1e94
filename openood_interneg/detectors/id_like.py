"""ID-Like: learned prompts of OOD images near the ID classes (Bai et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openood_interneg.detectors.grouped import GroupedDetector
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.trained_base import (
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
class IDLikeSettings(TrainedSettings):
    """Settings of ID-Like."""

    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(1, "G, groups over which the score is averaged", low=1)


class IDLike(GroupedDetector[IDLikeSettings]):
    r"""Softmax mass of the labels' learned prompts against learned OOD prompts.

    .. math:: S(h) = \frac{\sum_i e^{s \cos(h, e_i)}}
        {\sum_i e^{s \cos(h, e_i)} + \sum_j e^{s \cos(h, n_j)}}

    Source: arXiv 2311.15243.
    """

    Settings = IDLikeSettings


def id_like_space(source: TextSource, settings: IDLikeSettings) -> TextSpace:
    """Labels behind the ID context; OOD prompts of context, and of learned class tokens."""
    tensors = read_checkpoint(settings.checkpoint)
    backbone, names = source.backbone, source.class_names
    context = pick(tensors, "ex_prompt_learner_state_dict.ctx")
    tokens = pick(tensors, "ex_prompt_learner_state_dict.cls", optional=True)
    if tokens is not None:
        tokens = tokens if tokens.dim() == 3 else tokens[:, None]
        context = context if context.dim() == 3 else context.expand(len(tokens), -1, -1)
        context = torch.cat([context, tokens], dim=1)
    if context.dim() == 2:
        context = context[None]
    own = pick(tensors, "prompt_learner_state_dict.ctx")
    return trained_space(
        source,
        learned_prompts(backbone, own, names, position=settings.class_position),
        learned_prompts(backbone, context, [""] * len(context)),
    )


METHOD = Method(
    name="id_like",
    title="ID-Like",
    detector=IDLike,
    space=id_like_space,
    paper="2311.15243",
    year=2024,
    venue="CVPR",
    needs=("extra file",),
    presets=trained_presets(groups=1),
)

"""Local-Prompt: learned prompts of patches (Zeng et al., ICLR 2025)."""

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
    split_patches,
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
class LocalPromptSettings(TrainedSettings):
    """Settings of Local-Prompt."""

    label_prompt: str = setting("simple", "prompt of the labels, which are not learned")
    tau: float = setting(1.0, TAU_HELP, low=1e-6)
    top: int = setting(10, "pairs of a patch and a class that are averaged", low=1, high=10_000)


class LocalPrompt(Detector[LocalPromptSettings]):
    r"""MCM of the image plus the mean of its k best patches against learned local prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T) + \frac{1}{k}
        \operatorname{top}_k \frac{e^{\cos(h_p, l_i) / T}}
            {\sum_i e^{\cos(h_p, l_i) / T} + \sum_j e^{\cos(h_p, n_j) / T}}

    e_i are plain prompts of the labels, l_i learned local ones (`extra["local"]`, (C, D)), n_j
    learned negative ones; the top k are taken over patches and classes. The class comes from both
    kinds of prompts, the global cosine without a temperature, as in the authors' code:

    .. math:: \arg\max_i \; e^{\cos(h, e_i)} \cdot \frac{1}{k} \operatorname{top}_k
        e^{\cos(h_p, l_i) / T}, \quad \text{the top k over the patches of each class.}

    Source: arXiv 2409.04796.
    """

    Settings = LocalPromptSettings

    def _fit(self, space: TextSpace) -> None:
        if "local" not in space.extra:
            raise DetectorError("Local-Prompt needs its local prompts as extra['local']")
        self._texts = torch.cat([space.extra["local"], space.negatives])

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, classes = self.settings, len(self.space.labels)
        images, patches = split_patches(features, "Local-Prompt")
        cosine = images @ self.space.labels.t()
        local = patches @ self._texts.t() / settings.tau  # (B, P, C + k)
        mass = local.log_softmax(dim=2)[..., :classes].flatten(1)  # (B, P C)
        best = mass.topk(min(settings.top, mass.shape[1]), dim=1).values.exp().mean(dim=1)
        count = min(settings.top, local.shape[1])
        nearest = local[..., :classes].topk(count, dim=1).values  # (B, k, C), of each class
        pred = (cosine + nearest.logsumexp(dim=1)).argmax(dim=1)
        return Scores(pred, max_softmax(cosine / settings.tau) + best)


def local_prompt_space(source: TextSource, settings: LocalPromptSettings) -> TextSpace:
    """Labels under the plain prompt, `local_ctx` with class names, `neg_ctx` without."""
    tensors = read_checkpoint(settings.checkpoint)
    local, negative = pick(tensors, "local_ctx"), pick(tensors, "neg_ctx")
    backbone = source.backbone
    return trained_space(
        source,
        source.labels(settings.label_prompt),
        learned_prompts(backbone, negative, [""] * len(negative)),
        local=learned_prompts(
            backbone, local, source.class_names, position=settings.class_position
        ),
    )


METHOD = Method(
    name="local_prompt",
    title="Local-Prompt",
    detector=LocalPrompt,
    space=local_prompt_space,
    paper="2409.04796",
    year=2025,
    venue="ICLR",
    needs=("extra file", "patches"),
    input="patches",
    presets=trained_presets(tau=1.0, top=10),
)

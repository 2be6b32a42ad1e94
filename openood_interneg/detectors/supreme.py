"""SUPREME: prototypes of texts and of images (arXiv 2502.00662)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
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
from openood_interneg.settings import SettingsError, setting
from openood_interneg.vlm.trained_prompts import (
    pick,
    read_checkpoint,
)


@dataclass(frozen=True)
class SupremeSettings(TrainedSettings):
    """Settings of SUPREME."""

    tau: float = setting(1.0, TAU_HELP, low=1e-6)
    combine: Literal["max", "mean"] = setting(
        "max", "how the uni- and cross-modal confidences are combined"
    )


class Supreme(Detector[SupremeSettings]):
    r"""Uni- and cross-modal confidence over text and image prototypes of the classes.

    .. math:: S = \max_{g \in \{h, A h\}} \max_{P \in \{E, I\}}
        \max_i \operatorname{softmax}_i(\cos(g, P_i) / T)

    E are the labels' text prototypes, I image prototypes (`extra["image"]`, (C, D)), and A h the
    image feature mapped towards the texts (`extra["map"]`, (D, D); left out where there is
    none). **Not verified:** neither the paper's formula of its S_GMP nor its code was at hand;
    this follows its abstract, which speaks of uni- and cross-modal similarities to both kinds of
    prototypes. `combine: mean` averages instead. Do not report it as SUPREME without a check.
    Source: arXiv 2502.00662.
    """

    Settings = SupremeSettings

    def _fit(self, space: TextSpace) -> None:
        if "image" not in space.extra:
            raise DetectorError("SUPREME needs image prototypes as extra['image']")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, settings = self.space, self.settings
        queries = [features]
        if "map" in space.extra:
            queries.append(F.normalize(features @ space.extra["map"].t(), dim=-1))
        cosines = [q @ p.t() for q in queries for p in (space.labels, space.extra["image"])]
        every = torch.stack([max_softmax(cosine / settings.tau) for cosine in cosines])
        score = every.amax(dim=0) if settings.combine == "max" else every.mean(dim=0)
        return Scores(cosines[0].argmax(dim=1), score)


def supreme_space(source: TextSource, settings: SupremeSettings) -> TextSpace:
    """Prototypes as the file has them, normalised."""
    tensors, device = read_checkpoint(settings.checkpoint), source.backbone.device
    text = F.normalize(pick(tensors, "text_prototypes"), dim=-1).to(device)
    extra = {"image": F.normalize(pick(tensors, "image_prototypes"), dim=-1).to(device)}
    mapping = pick(tensors, "image_to_text", optional=True)
    if mapping is not None:
        extra["map"] = mapping.to(device)
    shape = (len(source.class_names), source.backbone.embed_dim)
    for name, found in (("text_prototypes", text), ("image_prototypes", extra["image"])):
        if found.shape != shape:
            raise SettingsError(
                f"checkpoint: {name} has shape {tuple(found.shape)}; expected {shape} for these "
                "classes and this backbone"
            )
    return trained_space(source, text, **extra)


METHOD = Method(
    name="supreme",
    title="SUPREME (score not verified)",
    detector=Supreme,
    space=supreme_space,
    paper="2502.00662",
    year=2025,
    venue="arXiv",
    needs=("extra file",),
    presets=trained_presets(tau=1.0),
)

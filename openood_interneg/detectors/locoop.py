"""LoCoOp: learned label prompts, scored with patches (Miyai et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from openood_interneg.data.encode import FeatureKind
from openood_interneg.detectors.base import Detector, Scores
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
class LoCoOpSettings(TrainedSettings):
    """Settings of LoCoOp."""

    tau: float = setting(1.0, TAU_HELP, low=1e-6)
    score: Literal["glmcm", "mcm"] = setting("glmcm", "with patches (GL-MCM), or without (MCM)")


class LoCoOp(Detector[LoCoOpSettings]):
    r"""GL-MCM over learned label prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T)
        + \max_{p, i} \operatorname{softmax}_i(\cos(h_p, e_i) / T)

    h_p are patch features. `score: mcm` leaves the second term out and takes features (B, D).
    Source: arXiv 2306.01293, Section 3; GL-MCM is arXiv 2304.04521.
    """

    Settings = LoCoOpSettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        labels, tau = self.space.labels, self.settings.tau
        if self.settings.score == "mcm":
            cosine = features.reshape(-1, *features.shape[-2:])[0] @ labels.t()
            return Scores(cosine.argmax(dim=1), max_softmax(cosine / tau))
        images, patches = split_patches(features, "GL-MCM")
        cosine = images @ labels.t()
        local = (patches @ labels.t() / tau).flatten(0, 1)  # (B P, C)
        regions = max_softmax(local).view(patches.shape[:2])
        return Scores(cosine.argmax(dim=1), max_softmax(cosine / tau) + regions.amax(dim=1))


def locoop_input(settings: LoCoOpSettings) -> FeatureKind:
    """MCM looks at the image alone."""
    return "image" if settings.score == "mcm" else "patches"


def locoop_space(source: TextSource, settings: LoCoOpSettings) -> TextSpace:
    """Labels: learned context `ctx` and the class name."""
    context = pick(read_checkpoint(settings.checkpoint), "ctx")
    position = settings.class_position
    return trained_space(
        source, learned_prompts(source.backbone, context, source.class_names, position=position)
    )


METHOD = Method(
    name="locoop",
    title="LoCoOp",
    detector=LoCoOp,
    space=locoop_space,
    paper="2306.01293",
    year=2023,
    venue="NeurIPS",
    needs=("extra file", "patches"),
    input=locoop_input,
    presets=trained_presets(tau=1.0, score="glmcm"),
)

"""MaxLogit on CLIP's cosines (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.settings import LabelSettings, setting


@dataclass(frozen=True)
class MaxLogitSettings(LabelSettings):
    """Settings of MaxLogit."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")


class MaxLogit(Detector[MaxLogitSettings]):
    r"""Largest cosine with an ID label.

    .. math:: S(h) = \max_i \cos(h, e_i)

    A scale or temperature would not change the ranking, so there is none.
    Source: arXiv 1911.11132, Section 4, with CLIP's cosines as the logits.
    """

    Settings = MaxLogitSettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        score, pred = (features @ self.space.labels.t()).max(dim=1)
        return Scores(pred, score)


METHOD = Method(
    name="maxlogit",
    title="MaxLogit (CLIP)",
    detector=MaxLogit,
    paper="1911.11132",
    year=2022,
    venue="ICML",
    presets={"imagenet": {}, "cifar10": {}, "cifar100": {}},  # nothing to set
)

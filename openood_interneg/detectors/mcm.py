"""MCM: maximum concept matching (Ming et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import max_softmax
from openood_interneg.settings import LabelSettings, setting


@dataclass(frozen=True)
class MCMSettings(LabelSettings):
    """Settings of MCM."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    tau: float = setting(1.0, "temperature T on the bare cosine", low=1e-6)


class MCM(Detector[MCMSettings]):
    r"""Largest softmax probability over the ID labels, on bare cosines.

    .. math:: S(h) = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T)

    T = 1 on the bare cosine is the paper's; on logits scaled by s it would be T = s.
    Source: arXiv 2211.13445, Eq. 1.
    """

    Settings = MCMSettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        cosine = features @ self.space.labels.t()
        return Scores(cosine.argmax(dim=1), max_softmax(cosine / self.settings.tau))


METHOD = Method(
    name="mcm",
    title="MCM",
    detector=MCM,
    paper="2211.13445",
    year=2022,
    venue="NeurIPS",
    # The paper has no settings for CIFAR; its defaults are used everywhere.
    presets={name: {"tau": 1.0} for name in ("imagenet", "cifar10", "cifar100")},
)

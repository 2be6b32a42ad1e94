"""Energy on CLIP's cosines (Liu et al., NeurIPS 2020; with CLIP in the MCM paper)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.settings import LabelSettings, setting


@dataclass(frozen=True)
class EnergySettings(LabelSettings):
    """Settings of Energy."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    tau: float = setting(1.0, "temperature T on the bare cosine", low=1e-6)


def negative_energy(cosine: Tensor, tau: float) -> Tensor:
    """T log sum_i exp(c_i / T): (B, C) -> (B,)."""
    return tau * (cosine / tau).logsumexp(dim=1)


class Energy(Detector[EnergySettings]):
    r"""Negative free energy of the ID labels, on bare cosines.

    .. math:: S(h) = T \log \sum_i e^{\cos(h, e_i) / T}

    T = 1 on the bare cosine is what MCM's code does; the score is then almost log C plus the mean
    cosine. EOE's code runs the same baseline with T = 0.01 (preset `eoe`). Which of the two the
    published CLIP figures used is not known.
    Source: arXiv 2010.03759, Eq. 4 (its sign reversed, so that high is ID).
    """

    Settings = EnergySettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        cosine = features @ self.space.labels.t()
        return Scores(cosine.argmax(dim=1), negative_energy(cosine, self.settings.tau))


METHOD = Method(
    name="energy",
    title="Energy (CLIP)",
    detector=Energy,
    paper="2010.03759",
    year=2020,
    venue="NeurIPS",
    # No code states settings for CIFAR; those of ImageNet are used.
    presets={
        "imagenet": {"tau": 1.0},
        "cifar10": {"tau": 1.0},
        "cifar100": {"tau": 1.0},
        "eoe": {"tau": 0.01},
    },
)

"""CoVer: confidence averaged over corrupted views of an image (Zhang et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from openood_interneg.data.encode import FeatureKind, Views
from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import max_softmax
from openood_interneg.settings import LARGEST, LabelSettings, setting


@dataclass(frozen=True)
class CoVerSettings(LabelSettings):
    """Settings of CoVer."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    tau: float = setting(1.0, "temperature T on the bare cosine", low=1e-6)
    views: Literal["recommended13", "all91"] = setting(
        "recommended13", "views of an image that are encoded (data/views.py)"
    )
    view_seed: int = setting(0, "seed of the random corruptions", low=0, high=LARGEST)


class CoVer(Detector[CoVerSettings]):
    r"""Mean over views of MCM.

    .. math:: S(h) = \frac{1}{V} \sum_v \max_i \operatorname{softmax}_i(\cos(h_v, e_i) / T)

    The views h_v are the image and its corrupted copies, the original first; confidences are
    averaged, not features. The class is that of the original. With one view this is MCM.

    `step` takes features (V, B, D), or (B, D) for the original alone.

    Source: arXiv 2410.18472.
    """

    Settings = CoVerSettings

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        views = features.reshape(-1, *features.shape[-2:])  # (V, B, D)
        cosine = views @ self.space.labels.t()  # (V, B, C)
        score = max_softmax(cosine.flatten(0, 1) / self.settings.tau).view(cosine.shape[:2])
        return Scores(cosine[0].argmax(dim=1), score.mean(dim=0))


def cover_views(settings: CoVerSettings) -> FeatureKind:
    """What CoVer's features are of."""
    return Views(settings.views, settings.view_seed)


METHOD = Method(
    name="cover",
    title="CoVer",
    detector=CoVer,
    paper="2410.18472",
    year=2024,
    venue="NeurIPS",
    needs=("corrupted views",),
    input=cover_views,
    # The paper evaluates ImageNet and its subsets; it has no settings for CIFAR.
    presets={
        name: {"views": "recommended13", "tau": 1.0} for name in ("imagenet", "cifar10", "cifar100")
    },
)

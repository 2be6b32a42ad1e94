"""KNN on CLIP's image features (Sun et al., ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.id_features import id_images, space
from openood_interneg.detectors.method import Method
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import IdImageSettings, setting


@dataclass(frozen=True)
class KNNSettings(IdImageSettings):
    """Settings of KNN; `images_per_class` ID images are the bank of neighbours."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    k: int = setting(10, "the k-th nearest ID image counts", low=1)


def kth_distance(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """Distance of unit rows (B, D) to their k-th nearest unit row of (n, D): (B,)."""
    cosine = (features @ bank.t()).topk(k, dim=1).values[:, -1]
    return (2 - 2 * cosine).clamp(min=0).sqrt()


class KNN(Detector[KNNSettings]):
    r"""Distance to the k-th nearest ID image, with its sign reversed.

    .. math:: S(h) = -\lVert h - h_{(k)} \rVert_2

    over the unit features of N ID images per class; the prediction is the zero-shot one. The
    paper's k belongs to the size of its bank (k = 50 for CIFAR's whole training set, 1000 for
    ImageNet's, 10 for 1 % of it); with N = 16 images per class k = 10 stays within a class.
    Source: arXiv 2204.06507, Section 3.
    """

    Settings = KNNSettings

    def _fit(self, space: TextSpace) -> None:
        self._bank, _ = id_images(space, "KNN")
        if self.settings.k > len(self._bank):
            raise DetectorError(f"k = {self.settings.k}, but there are {len(self._bank)} ID images")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        pred = (features @ self.space.labels.t()).argmax(dim=1)
        return Scores(pred, -kth_distance(features, self._bank, self.settings.k))


METHOD = Method(
    name="clip_knn",  # "knn" is OpenOOD's own, on the network's features
    title="KNN (CLIP)",
    detector=KNN,
    paper="2204.06507",
    year=2022,
    venue="ICML",
    needs=("ID images",),
    space=space,
    # No settings are stated with the published CLIP figures: the defaults everywhere.
    presets={"imagenet": {}, "cifar10": {}, "cifar100": {}},
)

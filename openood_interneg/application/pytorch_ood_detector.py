"""A detector of this package under pytorch-ood's interface; see `as_pytorch_ood`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_ood.api import (
    DetectorInfo,
    FeaturesDetector,
    RequiresFittingException,
    Task,
)
from torch import Tensor

from openood_interneg.application.detector import OODDetector
from openood_interneg.application.inputs import checked_names
from openood_interneg.data.image_ids import pixel_ids
from openood_interneg.detectors.base import DetectorError


class PytorchOODDetector(FeaturesDetector):
    """Scores as pytorch-ood wants them: the detector's with the other sign, high = OOD.

    Args:
        detector: fitted or not; it is used, not copied.
        class_names: as for `OODDetector.fit`; those of a fitted detector if left out.
        update: let a method with a memory learn from what it scores.

    Attributes:
        detector: the same.
        class_names: by label number.
        update: the same.

    Raises:
        DetectorError: the detector is not fitted, and there are no class names.
    """

    info = DetectorInfo(tasks=frozenset({Task.CLASSIFICATION}))

    def __init__(
        self,
        detector: OODDetector,
        class_names: Sequence[str] | str | Path | None = None,
        *,
        update: bool = False,
    ):
        super().__init__()
        if class_names is None and not detector.fitted:
            raise DetectorError(
                "the detector is not fitted and there are no class names; fit it, or give "
                "as_pytorch_ood(detector, class_names)"
            )
        self.detector, self.update = detector, update
        self.class_names = (
            detector.class_names if class_names is None else checked_names(class_names)
        )

    @property
    def requires_fit(self) -> bool:
        """Whether `fit` is still to come."""
        return not self.detector.fitted

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.detector.backbone.device

    def to(self, device: str | torch.device) -> PytorchOODDetector:
        """Refuses another device than the detector's own.

        Raises:
            DetectorError: it is another one.
        """
        wanted = torch.device(device)
        if wanted.type != self.device.type or wanted.index not in (None, self.device.index):
            raise DetectorError(
                f"the detector is on {self.device} and stays there; make it with "
                f"OODDetector(..., device='{device}')"
            )
        return self

    def transform(self, image: Any) -> Tensor:
        """What `predict` takes of an image, for a data set: (3, size, size), or (V, 3, size, size)
        for methods over views.

        Args:
            image: whatever `OODDetector.score` takes as one.

        Raises:
            ImageError: it cannot be read.
        """
        return self.detector.encoder.prepare(image)[0]

    def encode(self, x: Tensor) -> Tensor:
        """Unit features (B, D), or (V, B, D) for methods over views or patches.

        Args:
            x: a batch of what `transform` gives.
        """
        return self.detector.encoder.features(x)

    def fit(self, data_loader: Iterable[tuple[Tensor, Tensor]]) -> PytorchOODDetector:
        """Fits the detector to its class names and to ID images; a fresh stream starts.

        Args:
            data_loader: batches (pixels, label numbers); images with labels below 0 are left out.

        Raises:
            DetectorError: no ID image, or a label that has no class name.
        """
        rows, labels = [], []
        for x, y in data_loader:
            known = y >= 0
            if known.any():
                rows.append(self.encode(x[known]))
                labels.append(y[known])
        if not rows:
            raise DetectorError("the loader has no ID image; their labels are 0 or above")
        return self.fit_features(torch.cat(rows, dim=-2), torch.cat(labels))

    def fit_features(self, x: Tensor, y: Tensor) -> PytorchOODDetector:
        """As `fit`, for features.

        Args:
            x: (n, D), or (V, n, D) for methods over views or patches.
            y: (n,) label numbers, all of them 0 or above.

        Raises:
            DetectorError: as for `fit`.
        """
        self.detector.fit_features(self.class_names, x, y, calibrate=False)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (B,) float32, high = OOD.

        Args:
            x: a batch of what `transform` gives. Random numbers of an image depend on its pixels.

        Raises:
            RequiresFittingException: before `fit`.
        """
        self._need_fit()
        return self._scores(self.encode(x), pixel_ids(x) if self.update else None)

    def predict_features(self, x: Tensor) -> Tensor:
        """As `predict`, for features (B, D), or (V, B, D) for methods over views or patches."""
        self._need_fit()
        return self._scores(F.normalize(x.float(), dim=-1), None)

    def _scores(self, features: Tensor, ids: Tensor | None) -> Tensor:
        return -self.detector.score_features(features, ids, update=self.update).score

    def _need_fit(self) -> None:
        if self.requires_fit:
            raise RequiresFittingException()

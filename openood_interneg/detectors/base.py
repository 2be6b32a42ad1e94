"""What a detector is: features in, predictions and scores out.

A detector never sees images or CLIP. It is fitted to a `TextSpace`, then takes batches of unit
image features in stream order. Scores are high for ID and low for OOD, in every detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InternegError


class DetectorError(InternegError, ValueError):
    """Input that a detector cannot take, or a detector used before `fit`."""


class Scores(NamedTuple):
    """pred: (B,) int64 ID class. score: (B,) float32, high = ID."""

    pred: Tensor
    score: Tensor


class Detector:
    """Base of all detectors: `fit` once, then `reset` and `step` per stream.

    Subclasses implement `_fit`, `_step` and, where they remember something, `reset`,
    `state_dict` and `load_state_dict`.
    """

    space: TextSpace | None = None

    def fit(self, space: TextSpace) -> Detector:
        """Takes the text space and starts a fresh stream.

        Raises:
            DetectorError: the space lacks what this method needs.
        """
        self.space = space
        self._fit(space)
        self.reset()
        return self

    def step(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """Scores the next batch of the stream.

        Args:
            features: (B, D) float32 unit image features on the space's device.
            ids: (B,) int64 ids of the images, for methods that draw random numbers per image.

        Raises:
            DetectorError: not fitted; wrong shape; features that are not finite. Nothing of a
                refused batch is remembered.
        """
        if self.space is None:
            raise DetectorError(f"{type(self).__name__} was not fitted; call fit(space) first")
        size = self.space.labels.shape[1]
        if features.shape[-1] != size or features.dim() < 2:
            raise DetectorError(
                f"features have shape {tuple(features.shape)}; expected (batch, {size})"
            )
        if not bool(torch.isfinite(features).all()):
            row = int((~torch.isfinite(features).flatten(1).all(1)).nonzero()[0])
            raise DetectorError(f"feature {row} of the batch contains NaN or infinity")
        if ids is None:
            ids = torch.zeros(features.shape[-2], dtype=torch.int64)
        with torch.no_grad():
            return self._step(features, ids)

    def reset(self) -> None:
        """Starts a new stream: forgets everything seen since `fit`."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from the stream; empty for a method without memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict` of the same method and space."""
        if state:
            raise DetectorError(f"{type(self).__name__} has no state to load")

    def _fit(self, space: TextSpace) -> None:
        """Checks the space and prepares what does not change over the stream."""

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        raise NotImplementedError

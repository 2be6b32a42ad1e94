"""What a detector is: features in, predictions and scores out.

A detector never sees images or CLIP. It is fitted to a `TextSpace`, then takes batches of unit
image features in stream order. Scores are high for ID and low for OOD, in every detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from openood_interneg.settings import InternegError

Inverter = Callable[[Tensor, Tensor], Tensor]  # (B, D) features, (B,) keys -> (B, D) unit rows


class DetectorError(InternegError, ValueError):
    """Input that a detector cannot take, or a detector used before `fit`."""


class Scores(NamedTuple):
    """pred: (B,) int64 ID class. score: (B,) float32, high = ID."""

    pred: Tensor
    score: Tensor


@dataclass(frozen=True)
class TextSpace:
    """Everything that a detector knows besides the stream, on one device, float32.

    Attributes:
        labels: (C, D) unit text features e_i of the ID labels.
        logit_scale: s = exp of CLIP's learned logit scale.
        negatives: (M, D) unit text features of the mined negative texts, best first within a
            part of speech, adjectives first; M may be 0.
        proxies: (C, D) unit image proxies p_i (Eq. 7), or None where no ID image was given.
        base: (C,) base cosines b_i (Eq. 8), or None.
        image_base: (C,) mean cosine of a class's ID images with its proxy: the intra-modal
            counterpart of `base`; or None.
        negative_words: M words, or empty.
        class_names: C names, or empty.
        extra: what single methods need besides (documented by them), by name.
    """

    labels: Tensor
    logit_scale: float
    negatives: Tensor
    proxies: Tensor | None = None
    base: Tensor | None = None
    image_base: Tensor | None = None
    negative_words: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("labels", "negatives", "proxies", "base", "image_base"):
            tensor = getattr(self, name)
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise DetectorError(f"the text space's {name} contain NaN or infinity")
        if self.proxies is not None and len(self.proxies) != len(self.labels):
            raise DetectorError(
                f"{len(self.proxies)} image proxies for {len(self.labels)} labels: the class "
                "names and the ID images do not belong together"
            )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.labels.device

    def to(self, device: str | torch.device) -> TextSpace:
        """The same space on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            labels=move(self.labels),
            negatives=move(self.negatives),
            proxies=move(self.proxies),
            base=move(self.base),
            image_base=move(self.image_base),
            extra={name: move(tensor) for name, tensor in self.extra.items()},
        )


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

    def step(self, features: Tensor, keys: Tensor | None = None) -> Scores:
        """Scores the next batch of the stream.

        Args:
            features: (B, D) float32 unit image features on the space's device.
            keys: (B,) int64 keys of the images, for methods that draw random numbers per image.

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
        if keys is None:
            keys = torch.zeros(features.shape[-2], dtype=torch.int64)
        with torch.no_grad():
            return self._step(features, keys)

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

    def _step(self, features: Tensor, keys: Tensor) -> Scores:
        raise NotImplementedError

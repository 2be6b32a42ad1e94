"""What a detector is: features in, predictions and scores out.

A detector never sees images or CLIP. It is fitted to a `TextSpace`, then takes batches of unit
image features in stream order. Scores are high for ID and low for OOD, in every detector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from openood_interneg.detectors.scores import Scores
from openood_interneg.detectors.scoring import logits
from openood_interneg.detectors.watched import Watched
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InternegError

S = TypeVar("S")  # the settings of a method
D = TypeVar("D", bound="Detector[Any]")


class DetectorError(InternegError, ValueError):
    """Input that a detector cannot take, or a detector used before `fit`."""


def need_entries(state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Checks that a stored state is whole.

    Raises:
        DetectorError: naming the first entry that it lacks.
    """
    for name in names:
        if name not in state:
            raise DetectorError(f"the stored state lacks '{name}'")


class Detector(Generic[S]):
    """Base of all detectors: `fit` once, then `reset` and `step` per stream.

    Subclasses name their `Settings`, implement `_fit`, `_step` and, where they remember
    something, `reset`, `state_dict` and `load_state_dict`.

    Args:
        settings: hyper-parameters; the defaults of `Settings` if left out.
    """

    Settings: ClassVar[type[Any]]
    has_p: ClassVar[bool] = False  # whether its scores carry p-values
    settings: S
    _watched: Watched | None = None

    def __init__(self, settings: S | None = None):
        self.settings = self.Settings() if settings is None else settings

    @property
    def space(self) -> TextSpace:
        """The text space that the detector was fitted to.

        Raises:
            DetectorError: not fitted.
        """
        if not self.fitted:
            raise DetectorError(f"{type(self).__name__} was not fitted; call fit(space) first")
        return self._space

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return hasattr(self, "_space")

    def fit(self: D, space: TextSpace) -> D:
        """Takes the text space and starts a fresh stream.

        Raises:
            DetectorError: the space lacks what this method needs.
        """
        self._space = space
        self._watched = None
        self._fit(space)
        self.reset()
        return self

    def step(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """Scores the next batch of the stream and learns from it.

        Args:
            features: (B, D) float32 unit image features on the space's device.
            ids: (B,) int64 ids of the images, for methods that draw random numbers per image.

        Returns:
            The scores; while ID images are watched, with the threshold of each image's moment.

        Raises:
            DetectorError: not fitted; wrong shape; features that are not finite. Nothing of a
                refused batch is remembered.
        """
        self._check(features)
        with torch.no_grad():
            scores = self._step(features, self._ids(features, ids))
        if self._watched is None or scores.gamma is not None:
            return scores
        return scores.judged_by(self.threshold)

    def _check(self, features: Tensor) -> None:
        size = self.space.labels.shape[1]
        if features.shape[-1] != size or features.dim() < 2:
            raise DetectorError(
                f"features have shape {tuple(features.shape)}; expected (batch, {size})"
            )
        if not bool(torch.isfinite(features).all()):
            row = int((~torch.isfinite(features).flatten(1).all(1)).nonzero()[0])
            raise DetectorError(f"feature {row} of the batch contains NaN or infinity")

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """Scores images, each by itself, with the memory as it is, and learns nothing from them.

        A method with a memory scores each image here as `step` would if it came next, one by one;
        those that can do it for all at once override this.

        Args:
            features: as for `step`.
            ids: as for `step`.
        """
        self._check(features)
        ids = self._ids(features, ids)
        with torch.no_grad():
            if not self.remembers:
                return self._step(features, ids)
            state = {name: value.clone() for name, value in self.state_dict().items()}
            rows = []
            for i in range(len(ids)):
                try:
                    rows.append(self._step(features[..., i : i + 1, :], ids[i : i + 1]))
                finally:
                    self.load_state_dict(state)
        said = Scores.joined(rows)
        return Scores(said.pred, said.score, said.p)

    def _ids(self, features: Tensor, ids: Tensor | None) -> Tensor:
        return torch.zeros(features.shape[-2], dtype=torch.int64) if ids is None else ids

    @property
    def remembers(self) -> bool:
        """Whether scores depend on what the stream has brought."""
        return type(self).state_dict is not Detector.state_dict

    # ---- ID images whose scores are watched ------------------------------------------------

    def watch(self, features: Tensor | None, tpr: float = 0.95) -> None:
        """Keeps the scores of ID images up to date from now on; see `threshold`.

        Args:
            features: (n, D) unit features, n > 0, or (V, n, D) of views, of ID images that are
                neither shots nor of the stream; None stops it.
            tpr: share of ID images that the threshold lets pass, above 0.

        Raises:
            DetectorError: not fitted, or features that `step` would refuse.
        """
        if features is not None:
            self._check(features)
        self._watched = None if features is None else Watched(features, tpr)
        self._watch_begins()

    @property
    def watched_scores(self) -> Tensor:
        """(n,) scores of the watched images with the memory as it is.

        Raises:
            DetectorError: none are watched.
        """
        watched = self._watching()
        moment = self._moment()
        with torch.no_grad():
            if watched.scores is None or moment is None or moment != watched.moment:
                watched.scores, watched.moment = self._watched_now(watched), moment
            return watched.scores

    @property
    def threshold(self) -> float:
        """The score that at least the share `tpr` of the watched images reaches now.

        Raises:
            DetectorError: no images are watched.
        """
        return self._watching().threshold(self.watched_scores)

    def _watching(self) -> Watched:
        if self._watched is None:
            raise DetectorError("no ID images are watched; call watch(features) first")
        return self._watched

    def _watch_begins(self) -> None:
        """Prepares what is kept for the images that are watched now; `_watched` may be None."""

    def _moment(self) -> object:
        """What differs when scores may have changed; None where that is not known."""
        return None if self.remembers else ()

    def _watched_now(self, watched: Watched) -> Tensor:
        """(n,) scores of the watched images; methods that can, keep them and only add to them."""
        return self.score(watched.features).score

    # ---- explanations ----------------------------------------------------------------------

    def text_logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """ID logits (B, C) and negative logits (B, n) by which images are judged now.

        The negatives are those of the space in their order, then what the stream has added.
        Without negatives n = 0.

        Args:
            features: (B, D), or (V, B, D) of views or patches, of which the first is the image.
        """
        space = self.space
        # A method without a temperature compares bare cosines: tau = 1 ranks alike.
        tau = getattr(self.settings, "tau", 1.0)
        image = features.reshape(-1, *features.shape[-2:])[0]
        own, mined, learned = (
            logits(image, texts, space.logit_scale, tau)
            for texts in (space.labels, space.negatives, self._learned_negatives())
        )
        return own, torch.cat([mined, learned], dim=1)

    def negative_logits(self, features: Tensor) -> Tensor:
        """The negative logits (B, n) of `text_logits`."""
        return self.text_logits(features)[1]

    @property
    def highest_score(self) -> float:
        """What a score reaches at most, for a score that starts at 0."""
        return 1.0

    def reset(self) -> None:
        """Starts a new stream: forgets everything seen since `fit`."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from the stream; empty for a method without memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict` of the same method and space."""
        if state:
            raise DetectorError(f"{type(self).__name__} has no state to load")

    def _learned_negatives(self) -> Tensor:
        """(n, D) negatives that the stream has added to the space's."""
        return self.space.negatives[:0]

    def _fit(self, space: TextSpace) -> None:
        """Checks the space and prepares what does not change over the stream."""

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        raise NotImplementedError

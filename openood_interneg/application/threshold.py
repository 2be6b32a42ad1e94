"""What tells unknown images: gamma, which follows its calibration images, or the p-value."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.judgement import Judgement
from openood_interneg.application.saving import SavedThreshold
from openood_interneg.data.encode import Progress
from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.protections import ProtectedInterNeg
from openood_interneg.settings import SettingsError, checked

Mode = Literal["follow", "fixed"]

MOST_IMAGES = 2_000  # calibration images that are kept: a 95 % quantile is known to 0.5 points
FEW_IMAGES = 20  # too few to tell a 95 % quantile
LOOK_EVERY = 100  # images of the stream between two looks at the false alarms
DRIFT = 0.1  # false alarms beyond those of calibration that are worth a warning


class Threshold:
    """Tells unknown images: by a gamma that was set, by calibration images, or by p-values.

    Args:
        gamma: as set by hand; goes before all else.
        mode: of a calibrated gamma: "follow" is the quantile of the calibration images' scores with
            the memory as it is, "fixed" that of the moment of calibration.
        alpha: of methods with p-values, where there is no gamma: an image with p <= alpha is
            unknown; 0.05 if left out.

    Attributes:
        tpr: share of ID images that `calibrate` was told to let pass.
        features: (n, D) or (V, n, D) of the calibration images; None before `calibrate`.
        asked_for_p: whether alpha was given, so that `fit` is not to calibrate by itself.
    """

    def __init__(
        self, gamma: float | None = None, mode: Mode = "follow", alpha: float | None = None
    ):
        self.asked_for_p = alpha is not None
        alpha = 0.05 if alpha is None else alpha
        checked("threshold", mode, Mode, {})
        self.mode: Mode = mode
        self.alpha = checked("alpha", alpha, float, {"low": 0, "high": 1})
        self.given: float | None = None
        self.set(gamma)
        self.tpr = 0.95
        self.forget()

    def forget(self) -> None:
        """Without calibration; a gamma that was set stays."""
        self.fixed: float | None = None
        self.features: Tensor | None = None
        self.warned = False

    def set(self, gamma: float | None) -> None:
        """Sets gamma by hand; None takes that back.

        Raises:
            SettingsError: no finite number.
        """
        if gamma is not None:
            gamma = gamma.item() if isinstance(gamma, (np.generic, Tensor)) else gamma
            gamma = checked("gamma", gamma, float, {})
        self.given = gamma

    def gamma(self, detector: Detector[Any] | None) -> float | None:
        """Scores below are unknown now; None where there is none, or p-values tell."""
        if self.given is not None or self.features is None or detector is None:
            return self.given
        return detector.threshold if self.mode == "follow" else self.fixed

    def by_p(self, detector: Detector[Any]) -> bool:
        """Whether p-values tell."""
        return detector.has_p and self.given is None and self.features is None

    def required(self, detector: Detector[Any]) -> None:
        """Checks that something tells unknown images.

        Raises:
            DetectorError: nothing does.
        """
        if self.gamma(detector) is None and not self.by_p(detector):
            raise DetectorError(
                "there is no threshold yet; call calibrate(id_images) with ID images that are not "
                "the proxies', or set gamma"
            )

    def judge(self, detector: Detector[Any], scores: Scores) -> Judgement | None:
        """What of these scores is unknown; None where nothing tells."""
        score = scores.score
        if self.by_p(detector):
            assert scores.p is not None
            return Judgement(scores.p > self.alpha, scores.p - self.alpha, None)
        gamma = self.gamma(detector)
        if gamma is None:
            return None
        of_each: Tensor | float = gamma
        if self.given is None and self.mode == "follow" and scores.gamma is not None:
            of_each = scores.gamma
        return Judgement(score >= of_each, score - of_each, of_each)

    # ---- calibration -------------------------------------------------------------------------

    def calibrate(self, detector: Detector[Any], rows: Tensor, tpr: float) -> float:
        """Keeps ID images (n, D) or (V, n, D), of which at least the share `tpr` is to pass."""
        every = -(-rows.shape[-2] // MOST_IMAGES)
        rows = rows[..., ::every, :].clone()
        finite(detector.score(rows))
        self.forget()
        self.given, self.tpr, self.features = None, float(tpr), rows
        detector.watch(rows, self.tpr)
        self.fixed = detector.threshold
        return self.fixed

    def restore(self, detector: Detector[Any], saved: SavedThreshold) -> None:
        """Takes over what another process came to."""
        self.forget()
        self.mode = "fixed" if saved.mode == "fixed" else "follow"
        self.alpha, self.tpr = saved.alpha, saved.tpr
        self.given, self.fixed = saved.given, saved.fixed
        if saved.features is not None:
            self.features = saved.features.to(detector.space.device)
            detector.watch(self.features, self.tpr)
            self._guard(detector)

    def saved(self) -> SavedThreshold:
        """For a file."""
        return SavedThreshold(
            self.mode, self.alpha, self.tpr, self.given, self.fixed, self.features
        )

    def recalibrate(self, detector: Detector[Any]) -> float:
        """Takes a fixed gamma anew, for the memory as it is now.

        Raises:
            DetectorError: there are no calibration images.
        """
        self._calibrated()
        self.given, self.fixed = None, detector.threshold
        self._guard(detector)
        return self.fixed

    def false_alarms(self, detector: Detector[Any]) -> float:
        """Share of the calibration images that are unknown with the memory as it is now.

        Raises:
            DetectorError: there are no calibration images.
        """
        self._calibrated()
        gamma = self.gamma(detector)
        assert gamma is not None
        return float((detector.watched_scores < gamma).float().mean())

    def _guard(self, detector: Detector[Any]) -> None:
        """InterNeg's id_guard goes by the gamma of the calibration, wherever the bank stands."""
        if isinstance(detector, ProtectedInterNeg) and self.fixed is not None:
            assert self.features is not None
            detector.guard = (self.features, self.fixed)

    def _calibrated(self) -> None:
        if self.features is None:
            raise DetectorError("there are no calibration images; call calibrate first")

    def look(self, detector: Detector[Any], before: int, now: int) -> None:
        """The stream went on: says once in a stream that a gamma that stays has become too strict.

        Args:
            detector: as it is now.
            before: images of the stream until the last call.
            now: images of the stream so far.
        """
        follows = self.given is None and self.mode == "follow"
        if self.warned or follows or self.features is None:
            return
        if now // LOOK_EVERY == before // LOOK_EVERY:
            return
        share = self.false_alarms(detector)
        if share > 1 - self.tpr + DRIFT:
            self.warned = True
            warnings.warn(
                f"{share:.0%} of the calibration images would now be unknown: the memory has grown "
                "and gamma is from before. Leave threshold at 'follow', or call recalibrate() now "
                "and then",
                stacklevel=5,
            )


def warn_of_fixed() -> None:
    """A gamma of one moment does not fit a memory that grows."""
    warnings.warn(
        "threshold='fixed' keeps the gamma of now, and as the memory grows more and more ID images "
        "fall below it; leave threshold at 'follow', or call recalibrate() now and then",
        stacklevel=4,
    )


def checked_tpr(tpr: float) -> float:
    """A share of ID images above 0.

    Raises:
        SettingsError: it is not.
    """
    if checked("tpr", tpr, float, {"low": 0, "high": 1}) == 0:
        raise SettingsError("tpr is 0, and every image would be unknown; it lies above 0")
    return tpr


def calibration_features(
    encoder: ImageEncoder, sources: list[Any], proxy_ids: set[int], log: Progress
) -> Tensor:
    """Features (n, D), or (V, n, D), of ID images without those that the method was fitted to.

    Args:
        encoder: of the images.
        sources: ID images.
        proxy_ids: of the images that the method was fitted to, which score too high.
        log: told of images encoded.

    Raises:
        DetectorError: no image is left.
    """
    features = []
    for begin in range(0, len(sources), encoder.batch_size):
        part, ids = encoder.encode(sources[begin : begin + encoder.batch_size])
        fresh = [i for i, image in enumerate(ids.tolist()) if image not in proxy_ids]
        features.append(part[..., fresh, :])
        log("calibration images", len(ids), len(sources))
    left = sum(part.shape[-2] for part in features)
    if not left:
        raise DetectorError(
            "there is no image to calibrate with: give ID images, other ones than those that "
            "fit read for the image proxies"
        )
    if left < len(sources):
        warnings.warn(
            f"{len(sources) - left} of {len(sources)} calibration images made the image "
            "proxies and are left out",
            stacklevel=3,
        )
    if left < FEW_IMAGES:
        warnings.warn(f"gamma rests on {left} images only", stacklevel=3)
    return torch.cat(features, dim=-2)


def thinned(places: list[int]) -> list[int]:
    """Of more places than calibration can use, every so many."""
    return places[:: max(-(-len(places) // MOST_IMAGES), 1)]


def finite(scores: Scores) -> Scores:
    """The same scores.

    Raises:
        DetectorError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(scores.score).all()):
        raise DetectorError("a score is not finite; check the model's precision and the settings")
    return scores

"""Gamma, below which an image is unknown, and the ID images that it rests on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openood_interneg.application.images import ImageEncoder
from openood_interneg.data.encode import Progress
from openood_interneg.detectors.base import DetectorError, Scores
from openood_interneg.detectors.protections import ProtectedInterNeg
from openood_interneg.settings import SettingsError, checked

GUARD_IMAGES = 256  # calibration images that id_guard watches
FEW_IMAGES = 20  # too few to tell a 95 % quantile
LOOK_EVERY = 100  # images of the stream between two looks at the false alarms
DRIFT = 0.1  # false alarms beyond those of calibration that are worth a warning


class Threshold:
    """Gamma, and how it is kept right while the bank grows.

    Attributes:
        tpr: share of ID images that `calibrate` was told to let pass.
        guard: (n, D) features of calibration images; None before `calibrate`.
        warned: whether it was said in this stream that gamma has become too strict.
    """

    def __init__(self, gamma: float | None = None):
        self._gamma: float | None = None
        self.gamma = gamma
        self.tpr = 0.95
        self.guard: Tensor | None = None
        self.warned = False

    @property
    def gamma(self) -> float | None:
        """Images that score below are unknown; None before it was set or calibrated."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float | None) -> None:
        if value is not None:
            value = value.item() if isinstance(value, np.generic) else value
            value = checked("gamma", value, float, {"low": 0, "high": 1})
        self._gamma = value

    def required(self) -> float:
        """Gamma.

        Raises:
            DetectorError: there is none yet.
        """
        if self._gamma is None:
            raise DetectorError(
                "there is no threshold yet; call calibrate(id_images) with ID images that are not "
                "the proxies', or set gamma"
            )
        return self._gamma

    def calibrate(self, detector: ProtectedInterNeg, rows: Tensor, tpr: float) -> float:
        """Sets gamma so that at least the share `tpr` of the rows (n, D) reaches it."""
        gamma = _reached(finite(detector.score(rows)).score, tpr)
        every = max(len(rows) // GUARD_IMAGES, 1)
        self.gamma, self.tpr = gamma, float(tpr)
        self.guard = rows[::every][:GUARD_IMAGES].clone()
        detector.guard = (self.guard, gamma)
        return gamma

    def restore(
        self, detector: ProtectedInterNeg, gamma: float | None, tpr: float, guard: Tensor | None
    ) -> None:
        """Takes over what `calibrate` came to in another process."""
        self.gamma, self.tpr = gamma, tpr
        self.guard = guard
        if guard is not None and gamma is not None:
            self.guard = guard.to(detector.space.device)
            detector.guard = (self.guard, gamma)

    def recalibrate(self, detector: ProtectedInterNeg) -> float:
        """Takes gamma anew, for the bank as it is now.

        Raises:
            DetectorError: there are no calibration images.
        """
        guard = self._watched()
        gamma = _reached(detector.score(guard).score, self.tpr)
        self.gamma = gamma
        detector.guard = (guard, gamma)
        return gamma

    def false_alarms(self, detector: ProtectedInterNeg) -> float:
        """Share of the calibration images that are unknown with the bank as it is now.

        Raises:
            DetectorError: there are no calibration images, or no gamma.
        """
        guard = self._watched()
        if self._gamma is None:
            raise DetectorError("there are no calibration images; call calibrate first")
        return float((detector.score(guard).score < self._gamma).float().mean())

    def _watched(self) -> Tensor:
        if self.guard is None:
            raise DetectorError("there are no calibration images; call calibrate first")
        return self.guard

    def follow(self, detector: ProtectedInterNeg, before: int, now: int) -> None:
        """The stream went on: takes gamma anew where its time has come, or warns.

        Args:
            detector: with the protections.
            before: images of the stream until the last call.
            now: images of the stream so far.
        """
        every = detector.protections.recalibrate
        if every and now // every > before // every:
            self.recalibrate(detector)
        elif not every and now // LOOK_EVERY > before // LOOK_EVERY:
            self._warn_of_drift(detector)

    def _warn_of_drift(self, detector: ProtectedInterNeg) -> None:
        """Says once in a stream that gamma has become too strict."""
        calibrated = self.guard is not None and self._gamma is not None
        if self.warned or not calibrated or not len(detector.bank):
            return
        share = self.false_alarms(detector)
        if share > 1 - self.tpr + DRIFT:
            self.warned = True
            warnings.warn(
                f"{share:.0%} of the calibration images would now be unknown: the bank has grown "
                f"to {len(detector.bank)} entries and gamma is from before. Call recalibrate() now "
                "and then, or set the protection recalibrate=100",
                stacklevel=5,
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
    """Features (n, D) of ID images without those that made the image proxies.

    Args:
        encoder: of the images.
        sources: ID images.
        proxy_ids: of the images that made the proxies, which score too high.
        log: told of images encoded.

    Raises:
        DetectorError: no image is left.
    """
    features = []
    for begin in range(0, len(sources), encoder.batch_size):
        part, ids = encoder.encode(sources[begin : begin + encoder.batch_size])
        features.append(part[[i for i, image in enumerate(ids.tolist()) if image not in proxy_ids]])
        log("calibration images", len(part), len(sources))
    left = sum(map(len, features))
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
    return torch.cat(features)


def finite(scores: Scores) -> Scores:
    """The same scores.

    Raises:
        DetectorError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(scores.score).all()):
        raise DetectorError("a score is not finite; check the model's precision and the settings")
    return scores


def _reached(scores: Tensor, tpr: float) -> float:
    """The score that at least the share `tpr` of images reaches."""
    ordered = np.sort(scores.cpu().numpy())
    return float(ordered[int((1 - tpr) * len(ordered) + 1e-9)])

"""A fitted detector: what it knows, where its stream stands, and its threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.inputs import unlabelled_images
from openood_interneg.application.progress import progress_log
from openood_interneg.application.stream import StreamRecord
from openood_interneg.application.threshold import (
    Threshold,
    calibration_features,
    checked_tpr,
    warn_of_fixed,
)
from openood_interneg.application.turns import Mode, Turns
from openood_interneg.data.encode import Progress
from openood_interneg.detectors.base import Detector, DetectorError
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.protections import ProtectedInterNeg
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess


class FittedDetector:
    """Holds a method's detector as it was fitted, and all that changes as images pass.

    Args:
        method: of the table.
        encoder: reads and encodes images.
        threshold: what tells unknown images.
        threads: what to do with updates that overlap: "refuse" or "arrival".
    """

    def __init__(self, method: Method, encoder: ImageEncoder, threshold: Threshold, threads: Mode):
        self.method = method
        self._encoder = encoder
        self._turns = Turns(threads)
        self._lock = self._turns.lock
        self._threshold = threshold
        self._detector: Detector[Any] | None = None
        self._proxy_ids: set[int] = set()
        self._record = StreamRecord()

    def _start(
        self, detector: Detector[Any], proxy_ids: set[int], record: StreamRecord | None = None
    ) -> None:
        """Takes a fitted detector; whoever held the turn has lost it. Hold the lock."""
        self._detector, self._proxy_ids = detector, proxy_ids
        self._threshold.forget()
        self._restart(record)

    def _restart(self, record: StreamRecord | None = None) -> None:
        self._record = record or StreamRecord()
        self._threshold.warned = False
        self._turns.restart()

    def _fitted(self) -> Detector[Any]:
        if self._detector is None:
            raise DetectorError("the detector was not fitted; call fit(class_names, id_images)")
        return self._detector

    # ---- what it knows -----------------------------------------------------------------------

    @property
    def fitted(self) -> bool:
        """Whether `fit` or `load` was called."""
        return self._detector is not None

    @property
    def encoder(self) -> ImageEncoder:
        """Reads images and encodes them."""
        return self._encoder

    @property
    def backbone(self) -> Backbone:
        """The frozen model, loaded now if it was not before."""
        return self._encoder.backbone

    @property
    def preprocess(self) -> Preprocess:
        """What happens to an image before the model sees it."""
        return self._encoder.preprocess

    def __repr__(self) -> str:
        """The method, the model and how far it is; loads nothing."""
        parts = [f"{self.method.title} on {self._encoder!r}"]
        detector = self._detector
        if detector is None:
            parts.append("not fitted")
        else:
            parts.append(f"{len(self.space.class_names)} classes")
            if len(self.space.negatives):
                parts.append(f"{len(self.space.negatives)} negative texts")
            parts.append(self.threshold_told)
            parts.append(f"{self.position} images seen")
            if isinstance(detector, InterNeg):
                parts.append(f"bank {len(detector.bank)} of {detector.bank.capacity}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    @property
    def threshold_told(self) -> str:
        """What tells unknown images, in words."""
        threshold, detector = self._threshold, self._fitted()
        if threshold.by_p(detector):
            return f"unknown where p <= {threshold.alpha:g}"
        gamma = threshold.gamma(detector)
        if gamma is None:
            return "not calibrated"
        if threshold.given is not None:
            return f"gamma {gamma:.6g} (set)"
        assert threshold.features is not None
        how = "follows" if threshold.mode == "follow" else "fixed, of"
        return (
            f"gamma {gamma:.6g} ({how} {threshold.features.shape[-2]} images at tpr "
            f"{threshold.tpr:g})"
        )

    @property
    def space(self) -> TextSpace:
        """Labels, negative texts and what the method knows of ID images.

        Raises:
            DetectorError: before `fit`.
        """
        return self._fitted().space

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""
        return self.space.class_names

    @property
    def bank_size(self) -> int:
        """How many inverted images the bank holds; 0 for methods without one."""
        detector = self._fitted()
        return len(detector.bank) if isinstance(detector, InterNeg) else 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of what the stream has left in the memory; 0 for methods without one."""
        with self._lock:
            state = self._fitted().state_dict()
            return sum(tensor.nbytes for tensor in state.values())

    @property
    def gamma(self) -> float | None:
        """Images that score below are unknown now; None before it was set or calibrated, and where
        p-values tell. Setting it makes it stay; None goes back to the calibration images."""
        return self._threshold.gamma(self._detector)

    @gamma.setter
    def gamma(self, value: float | None) -> None:
        self._threshold.set(value)

    @property
    def tpr(self) -> float:
        """Share of ID images that `calibrate` was told to let pass."""
        return self._threshold.tpr

    @property
    def threshold(self) -> str:
        """What a calibrated gamma does as the memory grows: "follow" or "fixed"."""
        return self._threshold.mode

    @property
    def alpha(self) -> float:
        """p-values up to it are unknown, for methods that have them and without a gamma."""
        return self._threshold.alpha

    @property
    def judges(self) -> bool:
        """Whether anything tells unknown images."""
        return self.gamma is not None or self._threshold.by_p(self._fitted())

    @property
    def calibrated(self) -> bool:
        """Whether there are calibration images."""
        return self._threshold.features is not None

    @property
    def threads(self) -> str:
        """What happens to updates that overlap: "refuse" or "arrival"."""
        return self._turns.mode

    @property
    def position(self) -> int:
        """Images that the stream has brought, unreadable ones included."""
        return self._record.position

    @property
    def begun(self) -> int:
        """Position at which the present input began."""
        return self._record.begun

    @property
    def failed(self) -> int:
        """Images of the stream that could not be read."""
        return self._record.failed

    @property
    def note(self) -> dict[str, Any]:
        """What a caller keeps in the state."""
        return self._record.note

    @note.setter
    def note(self, value: dict[str, Any]) -> None:
        self._record.note = value

    def reset(self) -> None:
        """Forgets the stream: the memory, the position. Classes and calibration stay."""
        with self._lock:
            self._fitted().reset()
            self._restart()

    # ---- threshold ---------------------------------------------------------------------------

    def _may_watch(self, detector: Detector[Any]) -> None:
        protected = isinstance(detector, ProtectedInterNeg) and detector.protections.id_guard < 1
        if protected and self._threshold.features is None:
            raise DetectorError("id_guard needs ID images to watch; calibrate first")

    def calibrate(
        self, id_images: Any, tpr: float = 0.95, *, progress: Progress | bool | None = None
    ) -> float:
        """Takes ID images of which at least the share `tpr` is not to be unknown.

        With threshold="follow" gamma is the quantile of their scores with the memory as it is when
        an image is judged; with "fixed" that of now. The memory does not change. Images that the
        method was fitted to score too high: they are left out, with a warning. Of more than 2,000
        every so many are kept.

        Args:
            id_images: as for `fit` or `score`; labels are not looked at.
            tpr: between 0 and 1.
            progress: as for `fit`.

        Returns:
            gamma as of now.

        Raises:
            DetectorError: no image is left.
            SettingsError: tpr out of range.
        """
        self._fitted()
        tpr = checked_tpr(tpr)
        sources = unlabelled_images(id_images, self.class_names)
        with progress_log(progress) as log:
            rows = calibration_features(self._encoder, sources, self._proxy_ids, log)
        return self.calibrate_features(rows, tpr)

    def calibrate_features(self, features: Tensor, tpr: float = 0.95) -> float:
        """As `calibrate`, for features (n, D), or (V, n, D) for methods over views or patches."""
        self._fitted()
        tpr = checked_tpr(tpr)
        features = features.to(self.space.device, torch.float32)
        if not features.shape[-2]:
            raise DetectorError("there is no image to calibrate with")
        with self._lock:
            if self._threshold.mode == "fixed" and self._fitted().remembers:
                warn_of_fixed()
            return self._threshold.calibrate(self._fitted(), features, tpr)

    def recalibrate(self) -> float:
        """With threshold="fixed" takes gamma anew, for the memory as it is now, from the images of
        `calibrate`; one that follows is right already.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        with self._lock:
            return self._threshold.recalibrate(self._fitted())

    def false_alarms(self) -> float:
        """Share of the calibration images that are unknown with the memory as it is now.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        with self._lock:
            return self._threshold.false_alarms(self._fitted())

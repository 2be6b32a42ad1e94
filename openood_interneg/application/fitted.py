"""A fitted detector: what it knows, where its stream stands, and its threshold."""

from __future__ import annotations

from typing import Any

import torch

from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.inputs import unlabelled_images
from openood_interneg.application.progress import progress_log
from openood_interneg.application.stream import StreamRecord
from openood_interneg.application.threshold import Threshold, calibration_features, checked_tpr
from openood_interneg.application.turns import Mode, Turns
from openood_interneg.data.encode import Progress
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.protections import ProtectedInterNeg
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess


class FittedDetector:
    """Holds InterNeg as it was fitted, and all that changes as images pass.

    Args:
        encoder: reads and encodes images.
        gamma: images that score below are unknown.
        threads: what to do with updates that overlap: "refuse" or "arrival".
    """

    def __init__(self, encoder: ImageEncoder, gamma: float | None, threads: Mode):
        self._encoder = encoder
        self._turns = Turns(threads)
        self._lock = self._turns.lock
        self._threshold = Threshold(gamma)
        self._detector: ProtectedInterNeg | None = None
        self._proxy_ids: set[int] = set()
        self._record = StreamRecord()

    def _start(
        self, detector: ProtectedInterNeg, proxy_ids: set[int], record: StreamRecord | None = None
    ) -> None:
        """Takes a fitted detector; whoever held the turn has lost it. Hold the lock."""
        self._detector, self._proxy_ids = detector, proxy_ids
        self._threshold.guard = None
        self._restart(record)

    def _restart(self, record: StreamRecord | None = None) -> None:
        self._record = record or StreamRecord()
        self._threshold.warned = False
        self._turns.restart()

    def _fitted(self) -> ProtectedInterNeg:
        if self._detector is None:
            raise DetectorError("the detector was not fitted; call fit(class_names, id_images)")
        return self._detector

    # ---- what it knows -----------------------------------------------------------------------

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
        parts = [f"InterNeg on {self._encoder!r}"]
        if self._detector is None:
            parts.append("not fitted")
        else:
            space, bank = self.space, self._detector.bank
            parts.append(f"{len(space.class_names)} classes")
            parts.append(f"{len(space.negatives)} negative texts")
            if self.gamma is None:
                parts.append("not calibrated")
            else:
                watched = self._detector.guard
                by_images = watched is not None and watched[1] == self.gamma
                how = f"calibrated at tpr {self.tpr:g}" if by_images else "set"
                parts.append(f"gamma {self.gamma:.6g} ({how})")
            parts.append(f"{self.position} images seen")
            parts.append(f"bank {len(bank)} of {bank.capacity}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    @property
    def space(self) -> TextSpace:
        """Labels, negative texts and proxies.

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
        """How many inverted images the bank holds."""
        return len(self._fitted().bank)

    @property
    def gamma(self) -> float | None:
        """Images that score below are unknown; None before it was set or calibrated."""
        return self._threshold.gamma

    @gamma.setter
    def gamma(self, value: float | None) -> None:
        self._threshold.gamma = value

    @property
    def tpr(self) -> float:
        """Share of ID images that `calibrate` was told to let pass."""
        return self._threshold.tpr

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
        """Forgets the stream: the bank, the position. Classes and gamma stay."""
        with self._lock:
            self._fitted().reset()
            self._restart()

    # ---- threshold ---------------------------------------------------------------------------

    def _may_watch(self, detector: ProtectedInterNeg) -> None:
        if detector.protections.watches and self._threshold.guard is None:
            raise DetectorError("id_guard and recalibrate need ID images to watch; calibrate first")

    def calibrate(
        self, id_images: Any, tpr: float = 0.95, *, progress: Progress | bool | None = None
    ) -> float:
        """Sets gamma so that at least the share `tpr` of ID images is not unknown.

        The scores are those with the bank as it is now; the bank does not change. Images that
        made the proxies score too high: they are left out, with a warning.

        Args:
            id_images: as for `fit` or `score`; labels are not looked at.
            tpr: between 0 and 1.
            progress: as for `fit`.

        Returns:
            gamma.

        Raises:
            DetectorError: no image is left.
            SettingsError: tpr out of range.
        """
        self._fitted()
        tpr = checked_tpr(tpr)
        sources = unlabelled_images(id_images)
        with progress_log(progress) as log:
            rows = calibration_features(self._encoder, sources, self._proxy_ids, log)
        rows = rows.to(self.space.device, torch.float32)
        with self._lock:
            return self._threshold.calibrate(self._fitted(), rows, tpr)

    def recalibrate(self) -> float:
        """Takes gamma anew, for the bank as it is now, from the images of `calibrate` (of more
        than 256, every so many). A bank that grows lowers the scores of ID images, too.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        with self._lock:
            return self._threshold.recalibrate(self._fitted())

    def false_alarms(self) -> float:
        """Share of the calibration images that are unknown with the bank as it is now.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        with self._lock:
            return self._threshold.false_alarms(self._fitted())

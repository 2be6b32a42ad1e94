"""From class names and ID images, or their features, to a fitted detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.application.fitting import fit_space, warn_of_equal_texts
from openood_interneg.application.id_images import LabelledFeatures, LabelledImages
from openood_interneg.application.inputs import checked_names, labelled_images, labels_of
from openood_interneg.application.needs import check_id_images
from openood_interneg.application.progress import progress_log, tell
from openood_interneg.application.restoring import Restorable
from openood_interneg.application.threshold import (
    FEW_IMAGES,
    calibration_features,
    checked_tpr,
    thinned,
)
from openood_interneg.data.encode import Progress
from openood_interneg.detectors.base import DetectorError

L = TypeVar("L", bound="Learner")


class Learner(Restorable):
    """A detector that is fitted."""

    _parts = (0, 0)  # ID images that the method looked at, and that calibrate

    def fit(
        self: L,
        class_names: Sequence[str] | str | Path,
        id_images: Any = None,
        *,
        calibrate: bool | None = None,
        tpr: float = 0.95,
        progress: Progress | bool | None = None,
    ) -> L:
        """Learns the classes: mines negative texts, looks at ID images, as the method does it.

        Of the ID images, `images_per_class` are read for image proxies (or shots); up to 2,000 of
        the others calibrate right away, so that no image plays both parts. A fresh stream starts.

        Args:
            class_names: names, a text file with one a line, or a known set ("cifar100").
            id_images: some images of every class, where the method needs them: a folder with one
                subfolder per class, a mapping class -> images, an iterable of (image, class), a
                data set of torch, torchvision or Hugging Face, a loader, an image list (.txt), a
                table (.csv, .tsv, .parquet), webdataset's .tar; a class is a name or its number,
                by name where the source has names.
            calibrate: True calibrates with the images that are left, or refuses where there are
                none; False does not. By default where at least 20 are left, and neither gamma nor
                alpha was given.
            tpr: for the calibration, see `calibrate`.
            progress: told of the model, images and texts: a function of (what, finished since the
                last call, total), True for bars on stderr, False for silence; by default bars
                where stderr is a terminal.

        Raises:
            ClassNameError: no names, empty or duplicate ones.
            DetectorError: the method needs ID images and gets none; classes that are not among the
                names; calibrate=True without images for it.
            ProxyError: a class without images.
            ImageError: unreadable image.
        """
        names = checked_names(class_names)
        check_id_images(self.method, self.settings, id_images is not None)
        with progress_log(progress) as log:
            images: LabelledImages | None = None
            if id_images is not None:
                sources, labels = labelled_images(id_images, names)

                def encode(part: Sequence[Any]) -> tuple[Tensor, Tensor]:
                    return self._encoder.encode(
                        part, lambda count: log("ID images", count, len(part)), "image"
                    )

                images = LabelledImages(encode, sources, labels)
            rest = self._fit(names, images, log)
            if images is not None and self._calibrates(calibrate, rest, tpr):
                chosen = [images.sources[place] for place in thinned(rest)]
                self._calibrate_with(chosen, tpr, bool(calibrate), log)
        tell(self.fit_told, progress)
        return self

    def fit_features(
        self: L,
        class_names: Sequence[str] | str | Path,
        features: Tensor | np.ndarray | None = None,
        labels: Any = None,
        *,
        calibrate: bool | None = None,
        tpr: float = 0.95,
        progress: Progress | bool | None = None,
    ) -> L:
        """As `fit`, for ID images of which only the features are there.

        Args:
            class_names: as for `fit`.
            features: (n, D) image features of this detector's model, or (V, n, D) for methods over
                views or patches; made unit rows here.
            labels: n classes, names or numbers.
            calibrate: as for `fit`.
            tpr: as for `fit`.
            progress: as for `fit`.

        Raises:
            DetectorError: as for `fit`; features of another size, or not finite.
        """
        names = checked_names(class_names)
        check_id_images(self.method, self.settings, features is not None)
        images = None
        if features is not None:
            rows = torch.as_tensor(features, dtype=torch.float32)
            places = labels_of(labels, names)
            if rows.dim() < 2 or rows.shape[-2] != len(places):
                raise DetectorError(
                    f"{len(places)} labels come with features of shape {tuple(rows.shape)}; "
                    "expected one row of features for each"
                )
            if rows.shape[-1] != self.backbone.embed_dim or not bool(rows.isfinite().all()):
                raise DetectorError(
                    f"the features are {rows.shape[-1]} numbers an image, and the model's are "
                    f"{self.backbone.embed_dim} finite ones"
                )
            images = LabelledFeatures(F.normalize(rows, dim=-1), places)
        with progress_log(progress) as log:
            rest = self._fit(names, images, log)
        if images is not None and self._calibrates(calibrate, rest, tpr):
            chosen = thinned(rest)
            self.calibrate_features(images.rows[..., chosen, :], tpr)
            self._parts = (self._parts[0], len(chosen))
        tell(self.fit_told, progress)
        return self

    @property
    def fit_told(self) -> str:
        """Which ID images `fit` gave which part, and what tells unknown images."""
        proxies, calibrating = self._parts
        parts = [f"{proxies} images fit the method"] if proxies else []
        parts += [f"{calibrating} calibrate"] if calibrating else []
        start = f"{', '.join(parts)}: " if parts else ""
        return f"{start}{self.threshold_told}"

    def _fit(
        self,
        names: tuple[str, ...],
        images: LabelledImages | LabelledFeatures | None,
        log: Progress,
    ) -> list[int]:
        """Fits; gives the places of the ID images that the method did not look at."""
        log("model", 0, 1)
        source = self._source(names, images, log)
        log("model", 1, 1)
        fit = fit_space(source, self.method, self.settings, images)
        warn_of_equal_texts(fit.space)
        detector = self._made(fit.space, source)
        with self._lock:
            self._digests = fit.digests
            self._parts = (0 if images is None else len(images.read), 0)
            self._start(detector, fit.proxy_ids)
        return fit.rest

    def _calibrates(self, wanted: bool | None, rest: list[int], tpr: float) -> bool:
        """Whether `fit` goes on to calibrate with the images that are left."""
        checked_tpr(tpr)
        if wanted:
            if rest:
                return True
            raise DetectorError(
                "all ID images made the image proxies, and a threshold must not rest on them: "
                "lower images_per_class, calibrate with other ID images (--calibrate DIR), or set "
                "gamma"
            )
        threshold = self._threshold
        told = threshold.given is not None or threshold.asked_for_p
        return wanted is None and not told and len(rest) >= FEW_IMAGES

    def _calibrate_with(self, sources: list[Any], tpr: float, wanted: bool, log: Progress) -> None:
        """Calibrates with images that the method did not look at, as far as their names tell."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*made the image proxies.*")
            try:
                rows = calibration_features(self._encoder, sources, self._proxy_ids, log)
            except DetectorError:  # all are copies of those that it looked at
                if wanted:
                    raise
                return
        self.calibrate_features(rows, tpr)
        self._parts = (self._parts[0], rows.shape[-2])

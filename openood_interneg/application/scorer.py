"""Scoring images with a fitted detector: calls and streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from openood_interneg.application.fitted import FittedDetector
from openood_interneg.application.images import Found, Map
from openood_interneg.application.judgement import Judgement
from openood_interneg.application.stream import (
    Prediction,
    Scored,
    image_name,
    predictions,
    readable_ids,
    results,
)
from openood_interneg.application.threshold import finite
from openood_interneg.application.turns import Turn
from openood_interneg.data.image_sources import as_sources, images_in
from openood_interneg.data.images import ImageError
from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.evaluation.protocols import stream_batches
from openood_interneg.settings import checked

MOST_WORKERS = 1024


class Scorer(FittedDetector):
    """Scores images, of a call or of a stream."""

    # ---- calls -------------------------------------------------------------------------------

    def score(self, images: Any, *, update: bool = True) -> np.ndarray:
        """Scores of images, (n,) float32, high = ID; their range is the method's.

        Args:
            images: one image or whatever carries images (`data.image_sources.carried`): paths,
                bytes, open files, PIL images, arrays, tensors; a folder, list, table or archive; a
                data set, a loader, a batch; labels are not looked at.
            update: let them pass through the stream, that is, let the method learn from them. With
                False nothing is remembered, and any number of threads may call at once.

        Raises:
            ImageError: naming the first image that cannot be read; nothing of the call is
                remembered.
        """
        self._fitted()
        return self._calls(images, update)[0].score.cpu().numpy()

    def score_samples(self, images: Any, *, update: bool = True) -> np.ndarray:
        """`score`, by scikit-learn's name."""
        return self.score(images, update=update)

    def decision_function(self, images: Any, *, update: bool = True) -> np.ndarray:
        """Scores minus the threshold of each image's moment, (n,) float32: below 0 = unknown.

        Where p-values tell, p minus alpha: unknown images are at 0 or below. Arguments and errors
        as for `predict`.
        """
        self._threshold.required(self._fitted())
        judgement = self._calls(images, update)[1]
        assert judgement is not None
        return judgement.margin.cpu().numpy()

    @overload
    def predict(
        self, images: Any, *, update: bool = True, on_error: Literal["stop"] = "stop"
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self, images: Any, *, update: bool = True, on_error: Literal["skip"]
    ) -> list[Prediction | None]: ...

    def predict(
        self, images: Any, *, update: bool = True, on_error: Literal["skip", "stop"] = "stop"
    ) -> list[Prediction] | list[Prediction | None]:
        """(class name or "unknown", score) of each image, with `label`, `gamma` and `p`.

        Args:
            images: as for `score`.
            update: likewise.
            on_error: "skip" gives None in the place of an unreadable image.

        Raises:
            ImageError: as for `score`, with "stop".
            DetectorError: gamma was neither set nor calibrated, and the method has no p-values.
        """
        self._threshold.required(self._fitted())
        checked("on_error", on_error, Literal["skip", "stop"], {})
        if on_error == "stop":
            return predictions(*self._calls(images, update), self.class_names)
        with self._updating("another call of score or predict", update) as turn:
            found: list[Found] = []
            parts: list[Tensor] = []
            sources, size = as_sources(images), self._encoder.batch_size
            for begin in range(0, len(sources), size):
                rows, told = self._encoder.encode_readable(sources[begin : begin + size], map)
                found += told
                parts += [] if rows is None else [rows]
            if not parts:
                nothing: list[Prediction | None] = [None] * len(found)
                return nothing
            ids = readable_ids(found)
            judged = self._judged(torch.cat(parts, dim=-2), ids, turn)
        told_of = iter(predictions(*judged, self.class_names))
        return [None if isinstance(entry, str) else next(told_of) for entry in found]

    def score_features(
        self, features: Tensor, ids: Tensor | None = None, *, update: bool = True
    ) -> Scores:
        """As `score` for unit image features (n, D), or (V, n, D) for methods over views or
        patches, with the images' ids (n,) int64."""
        return self._of_features(features, ids, update)[0]

    def predict_features(
        self, features: Tensor, ids: Tensor | None = None, *, update: bool = True
    ) -> list[Prediction]:
        """As `predict` for features; see `score_features`."""
        self._threshold.required(self._fitted())
        return predictions(*self._of_features(features, ids, update), self.class_names)

    def _of_features(
        self, features: Tensor, ids: Tensor | None, update: bool
    ) -> tuple[Scores, Judgement | None]:
        self._fitted()
        with self._updating("another call of score_features", update) as turn:
            return self._judged(features, ids, turn)

    def _judged(
        self, features: Tensor, ids: Tensor | None, turn: Turn | None
    ) -> tuple[Scores, Judgement | None]:
        """Scores and which are known, under a turn, or without one: then nothing is remembered."""
        features = features.to(self.space.device, torch.float32)
        if features.dim() < 2:
            raise DetectorError(f"features have shape {tuple(features.shape)}; expected (n, D)")
        count = features.shape[-2]
        if ids is None:
            ids = torch.zeros(count, dtype=torch.int64)
        if len(ids) != count:
            raise DetectorError(f"{count} features come with {len(ids)} keys")
        with self._lock if turn is None else self._turns.used(turn):
            detector = self._fitted()
            if count == 0:
                scores = Scores(ids, features.new_zeros(0), features.new_zeros(0))
                return scores, self._threshold.judge(detector, scores)
            if turn is None:
                scores = detector.score(features, ids)
            else:
                self._may_watch(detector)
                size = self._encoder.batch_size
                batches = zip(features.split(size, dim=-2), ids.split(size), strict=True)
                scores = stream_batches(detector, batches)
            judgement = self._threshold.judge(detector, finite(scores))
            if turn is not None:
                self._advance(detector, count)
                self._record.begin_input()
        return scores, judgement

    def _calls(self, images: Any, update: bool) -> tuple[Scores, Judgement | None]:
        with self._updating("another call of score or predict", update) as turn:
            sources = as_sources(images)
            if not sources:
                return self._judged(self.space.labels[:0], None, turn)
            return self._judged(*self._encoder.encode(sources), turn)

    @contextmanager
    def _updating(self, what: str, update: bool) -> Iterator[Turn | None]:
        """Holds the turn; None without `update`."""
        if not update:
            yield None
        else:
            with self._turn(what) as turn:
                yield turn

    @contextmanager
    def _turn(self, what: str) -> Iterator[Turn]:
        # Without a memory there is nobody to disturb.
        with self._turns.held(what, self._fitted().remembers) as turn:
            yield turn

    def _advance(self, detector: Detector[Any], count: int) -> None:
        """The stream has brought `count` images more."""
        before = self._record.position
        self._record.position += count
        self._threshold.look(detector, before, self._record.position)

    # ---- streams -----------------------------------------------------------------------------

    def stream(
        self,
        images: Any,
        *,
        on_error: Literal["skip", "stop"] = "skip",
        resume: bool = False,
        workers: int = 0,
        judge: bool = True,
    ) -> Iterator[list[Scored]]:
        """Scores an endless stream, one list of results per `batch_size` images.

        Between two lists the detector is at a point where it can be saved, and where a resumed
        run starts: batches are cut by the position in the stream.

        Args:
            images: as for `score`. An iterator is read no further than needed; a sequence is
                read and, on a GPU, encoded one batch ahead.
            on_error: "skip" gives an unreadable image a result with `error` and goes on; "stop"
                raises, with nothing of its batch remembered.
            resume: the stream is the one that the loaded state was in; what was scored is
                skipped, and its names are compared.
            workers: threads that read and decode.
            judge: False takes scores without a threshold, and then every prediction is None.

        Raises:
            DetectorError: as for `predict`.
            ImageError: with "stop".
            StateError: the images to be skipped are others.
        """
        detector = self._fitted()
        if judge:
            self._threshold.required(detector)
        checked("on_error", on_error, Literal["skip", "stop"], {})
        checked("workers", workers, int, {"low": 0, "high": MOST_WORKERS})
        return self._streamed(images, on_error == "stop", resume, workers)

    def _streamed(
        self, images: Any, stops: bool, resume: bool, workers: int
    ) -> Iterator[list[Scored]]:
        iterator, device = images_in(images), self.space.device
        with self._turn("another stream") as turn:
            with self._turns.used(turn):
                if resume:
                    self._record.skip(iterator)
                else:
                    self._record.begin_input()
            with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
                do: Map = map if pool is None else pool.map
                size = self._encoder.batch_size
                batches = iter(lambda: list(itertools.islice(iterator, size)), [])
                overlap = None if isinstance(images, Sequence) else False
                for batch, (features, found) in encoded_ahead(
                    batches,
                    lambda batch: self._encoder.encode_readable(batch, do),
                    device,
                    overlap=overlap,
                ):
                    yield self._stream_batch(batch, features, found, stops, turn)

    def _stream_batch(
        self,
        batch: list[Any],
        features: Tensor | None,
        found: list[Found],
        stops: bool,
        turn: Turn,
    ) -> list[Scored]:
        begin = self.position
        names = [image_name(source, begin + i) for i, source in enumerate(batch)]
        for place, entry in enumerate(found):
            if isinstance(entry, str) and stops:
                raise ImageError(f"{entry} (position {begin + place} of the stream)")
        ids = readable_ids(found)
        with self._turns.used(turn):
            detector = self._fitted()
            self._may_watch(detector)
            said: list[Prediction] = []
            judged = True
            if features is not None:
                scores = finite(detector.step(features, ids))
                judgement = self._threshold.judge(detector, scores)
                judged = judgement is not None
                said = predictions(scores, judgement, self.class_names)
            out = results(names, found, said, begin=self.position, judged=judged)
            self._advance(detector, len(batch))
            self._record.add(names, len(batch) - len(ids))
        return out

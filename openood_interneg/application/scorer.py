"""Scoring images with a fitted detector: calls, streams, explanations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.application.explanation import Explanation, explain
from openood_interneg.application.fitted import FittedDetector
from openood_interneg.application.images import Found, Map
from openood_interneg.application.inputs import UNKNOWN
from openood_interneg.application.stream import Scored, image_name, readable_ids, results
from openood_interneg.application.threshold import finite
from openood_interneg.application.turns import Turn
from openood_interneg.data.any_image import as_sources
from openood_interneg.data.images import ImageError
from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.detectors.base import DetectorError, Scores
from openood_interneg.detectors.protections import ProtectedInterNeg
from openood_interneg.evaluation.protocols import stream_batches
from openood_interneg.settings import checked

MOST_WORKERS = 1024


class Scorer(FittedDetector):
    """Scores images, of a call or of a stream, and explains scores."""

    # ---- calls -------------------------------------------------------------------------------

    def score(self, images: Any, *, update: bool = True) -> np.ndarray:
        """Scores of images, (n,) float32 from 0 to 1, high = ID.

        Args:
            images: one image or a sequence of them: paths, PIL images, arrays, tensors (a batch
                in one array or tensor, too), or a folder.
            update: let them pass through the stream, that is, let the bank learn from them. With
                False nothing is remembered, and any number of threads may call at once.

        Raises:
            ImageError: naming the first image that cannot be read; nothing of the call is
                remembered.
        """
        return self._scores(images, update)[1]

    def predict(self, images: Any, *, update: bool = True) -> list[tuple[str, float]]:
        """(class name or "unknown", score) of each image; arguments and errors as for `score`.

        Raises:
            DetectorError: gamma was neither set nor calibrated.
        """
        self._fitted()
        gamma = self._threshold.required()
        pred, score = self._scores(images, update)
        names = self.class_names
        return [
            (names[p] if s >= gamma else UNKNOWN, s)
            for p, s in zip(pred.tolist(), score.tolist(), strict=True)
        ]

    def score_features(
        self, features: Tensor, ids: Tensor | None = None, *, update: bool = True
    ) -> Scores:
        """As `score` for unit image features (n, D), with the images' ids (n,) int64."""
        self._fitted()
        with self._updating("another call of score_features", update) as turn:
            return self._score_features(features, ids, turn)

    def _score_features(self, features: Tensor, ids: Tensor | None, turn: Turn | None) -> Scores:
        """Scores under a turn, or without one: then nothing is remembered."""
        features = features.to(self.space.device, torch.float32)
        if ids is None:
            ids = torch.zeros(len(features), dtype=torch.int64)
        if len(ids) != len(features):
            raise DetectorError(f"{len(features)} features come with {len(ids)} keys")
        if len(features) == 0:
            return Scores(ids, features.new_zeros(0))
        with self._lock if turn is None else self._turns.used(turn):
            detector = self._fitted()
            if turn is None:
                return finite(detector.score(features))
            self._may_watch(detector)
            size = self._encoder.batch_size
            batches = zip(features.split(size), ids.split(size), strict=True)
            scores = stream_batches(detector, batches)
            self._advance(detector, len(features))
            self._record.begin_input()
        return finite(scores)

    def _scores(self, images: Any, update: bool) -> tuple[np.ndarray, np.ndarray]:
        self._fitted()
        with self._updating("another call of score or predict", update) as turn:
            sources = as_sources(images)
            if not sources:
                return np.zeros(0, np.int64), np.zeros(0, np.float32)
            features, ids = self._encoder.encode(sources)
            pred, score = self._score_features(features, ids, turn)
        return pred.cpu().numpy(), score.cpu().numpy()

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
        # Without a bank there is nothing to remember, and nobody to disturb.
        with self._turns.held(what, self._fitted().bank.capacity > 0) as turn:
            yield turn

    def _advance(self, detector: ProtectedInterNeg, count: int) -> None:
        """The stream has brought `count` images more."""
        before = self._record.position
        self._record.position += count
        self._threshold.follow(detector, before, self._record.position)

    # ---- streams -----------------------------------------------------------------------------

    def stream(
        self,
        images: Iterable[Any],
        *,
        on_error: Literal["skip", "stop"] = "skip",
        resume: bool = False,
        workers: int = 0,
    ) -> Iterator[list[Scored]]:
        """Scores an endless stream, one list of results per `batch_size` images.

        Between two lists the detector is at a point where it can be saved, and where a resumed
        run starts: batches are cut by the position in the stream.

        Args:
            images: paths or other images. An iterator is read no further than needed; a sequence is
                read and, on a GPU, encoded one batch ahead.
            on_error: "skip" gives an unreadable image a result with `error` and goes on; "stop"
                raises, with nothing of its batch remembered.
            resume: the stream is the one that the loaded state was in; what was scored is
                skipped, and its names are compared.
            workers: threads that read and decode.

        Raises:
            ImageError: with "stop".
            StateError: the images to be skipped are others.
        """
        self._fitted()
        self._threshold.required()
        checked("on_error", on_error, Literal["skip", "stop"], {})
        checked("workers", workers, int, {"low": 0, "high": MOST_WORKERS})
        return self._streamed(images, on_error == "stop", resume, workers)

    def _streamed(
        self, images: Iterable[Any], stops: bool, resume: bool, workers: int
    ) -> Iterator[list[Scored]]:
        iterator, device = iter(images), self.space.device
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
            gamma = self._threshold.required()
            scores = None if features is None else finite(detector.step(features, ids))
            out = results(
                names,
                found,
                scores,
                begin=self.position,
                gamma=gamma,
                classes=self.class_names,
            )
            self._advance(detector, len(batch))
            self._record.add(names, len(batch) - len(ids))
        return out

    # ---- explanation -------------------------------------------------------------------------

    def explain(self, image: Any, top: int = 5) -> Explanation:
        """Which texts and which bank entries decide an image's score; nothing is remembered.

        The shares are of the softmax over all labels, negatives and bank entries (G = 1).
        """
        self._fitted()
        top = checked("top", top, int, {"low": 1})
        sources = as_sources(image)
        if len(sources) != 1:
            raise ImageError(f"explain takes one image, not {len(sources)}")
        features, _ = self._encoder.encode(sources)
        with self._lock:
            detector = self._fitted()
            label, score = (column.tolist()[0] for column in detector.score(features))
            bank, ids = detector.bank.features.clone(), detector.bank.ids.tolist()
            gamma = self.gamma
        known = None if gamma is None else score >= gamma
        prediction = {None: None, True: self.class_names[label], False: UNKNOWN}[known]
        return explain(
            features[0],
            detector.space,
            bank,
            ids,
            score=score,
            prediction=prediction,
            known=known,
            scale=detector.space.logit_scale / detector.settings.tau,
            top=top,
        )

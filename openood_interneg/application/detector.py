"""InterNeg for applications: images in, a class name or "unknown" out.

Below it is the same detector, text space and inversion as in the benchmarks; this file adds what
an application needs: images of any origin, a threshold, explanations, and a state on disk.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openood_interneg.application.explanation import Explanation, explain
from openood_interneg.application.id_images import (
    UNKNOWN,
    LabelledImages,
    checked_names,
    contents_digest,
    images_digest,
    labelled_images,
    unlabelled_images,
)
from openood_interneg.application.progress import told
from openood_interneg.application.saving import Saved
from openood_interneg.application.state import StateError, chained
from openood_interneg.application.turns import Mode, Turn, Turns
from openood_interneg.data.any_image import ImageLimits, as_image, as_sources
from openood_interneg.data.encode import Progress
from openood_interneg.data.image_ids import content_id
from openood_interneg.data.images import ImageError
from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.data.store import Store, default_root
from openood_interneg.detectors.base import DetectorError, Scores
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import live_inverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError, checked, from_mapping, merged
from openood_interneg.vlm.backbones import Backbone, FeatureError
from openood_interneg.vlm.factory import load_backbone

APPLICATION_DEFAULTS = {"update": "sample"}  # images come one by one, not in a paper's batches
GUARD_IMAGES = 256  # calibration images that id_guard watches
FEW_IMAGES = 20  # too few to tell a 95 % quantile
LOOK_EVERY = 100  # images of the stream between two looks at the false alarms
MOST_ROWS, MOST_WORKERS = 1_000_000, 1024
DRIFT = 0.1  # false alarms beyond those of calibration that are worth a warning


@dataclass(frozen=True)
class Scored:
    """What a stream says of one image.

    Attributes:
        position: place in the stream, from 0. name: its path, or "#position".
        label: the nearest class; prediction: the same or "unknown"; score: high = ID.
        error: why the image could not be read; then the three above are None.
    """

    position: int
    name: str
    label: str | None = None
    prediction: str | None = None
    score: float | None = None
    error: str | None = None

    @property
    def unknown(self) -> bool | None:
        """Whether the score lies below gamma."""
        return None if self.prediction is None else self.prediction == UNKNOWN


class InterNegDetector(Saved):
    """Zero-shot OOD detection with CLIP for class names and a few images of each class.

    Args:
        backbone: a name for `load_backbone` (loaded when first needed), or a `Backbone`.
        pretrained, precision: for the backbone's name. device: "auto" takes a GPU if there is one.
        preprocess: "clip" (the model's own) or "openood_vlm".
        batch_size: images that are encoded, and with `update="batch"` scored, together.
        gamma: images that score below are unknown; or call `calibrate`.
        threads: what to do with an update that comes while another call, or a stream that has not
            ended, is updating: "refuse" it, since scores would depend on who comes first, or
            "arrival", one after the other as they come. Calls that do not overlap are always
            accepted, whichever threads make them.
        protections: limits on what the stream may do to the bank (`ProtectionSettings`).
        limits: limits and rules for images (`ImageLimits`).
        cache: keep text features on disk: True in the usual place, a folder, or False.
        settings: hyper-parameters (`InterNegSettings`). `update` is "sample" here unless given:
            Algorithm 1 to the letter, so that scores do not depend on how calls are cut.

    Raises:
        SettingsError: unknown or contradictory settings.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "ViT-B/16",
        *,
        pretrained: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        preprocess: str = "clip",
        batch_size: int = 32,
        gamma: float | None = None,
        threads: Mode = "refuse",
        protections: ProtectionSettings | Mapping[str, Any] | None = None,
        limits: ImageLimits | None = None,
        cache: bool | str | Path = True,
        **settings: Any,
    ):
        self.settings = from_mapping(
            InterNegSettings, merged(defaults=APPLICATION_DEFAULTS, given=settings)
        )
        if not isinstance(protections, ProtectionSettings):
            protections = from_mapping(ProtectionSettings, protections, "protections")
        self.protections = protections
        batch_size = checked("batch_size", batch_size, int, {"low": 1, "high": MOST_ROWS})
        checked("threads", threads, Mode, {})
        checked("preprocess", preprocess, Literal["clip", "openood_vlm"], {})
        if protections.of_bank and (
            self.settings.bank == "none" or not self.settings.bank_capacity
        ):
            raise SettingsError("protections protect the bank, and the settings have no bank")
        self.batch_size = batch_size
        self._turns = Turns(threads)
        self._lock = self._turns.lock
        self.limits = limits or ImageLimits()
        self._preprocess_name = preprocess
        self._backbone = backbone if isinstance(backbone, Backbone) else None
        self._source = (backbone, pretrained, device, precision)
        self._store = Store(None if cache is False else default_root() if cache is True else cache)
        self._transform: Callable[[Image.Image], Tensor] | None = None
        self._detector: ProtectedInterNeg | None = None
        self._digests: dict[str, str] = {}
        self._proxy_keys: set[int] = set()
        self._guard: Tensor | None = None
        self._tpr = 0.95
        self._gamma: float | None = None
        self.gamma = gamma
        self._restart()

    # ---- fitting ---------------------------------------------------------------------------

    def fit(
        self,
        class_names: Sequence[str] | str | Path,
        id_images: Any,
        *,
        progress: Progress | bool | None = None,
    ) -> InterNegDetector:
        """Learns the classes and mines the negative texts; starts a fresh stream.

        Args:
            class_names: names, a text file with one a line, or a known set ("cifar100").
            id_images: some images of every class: a folder with one subfolder per class, a
                mapping class -> images, or a sequence of (image, class); a class is a name or its
                number. `images_per_class` of each are read.
            progress: told of the model, images and texts: a function of (what, finished since the
                last call, total), True for bars on stderr, False for silence; by default bars
                where stderr is a terminal.

        Raises:
            ClassNameError: no names, empty or duplicate ones. DetectorError: classes that are not
            among the names. ProxyError: a class without images. ImageError: unreadable image.
        """
        names = checked_names(class_names)
        sources, labels = labelled_images(id_images, names)
        with told(progress) as tell:
            tell("model", 0, 1)
            backbone = self.backbone
            tell("model", 1, 1)
            images = LabelledImages(
                lambda part: self._encode(part, lambda n: tell("ID images", n, len(part))),
                sources,
                labels,
            )
            space = TextSpaceBuilder(backbone, names, images, self._store, tell).build(
                self.settings
            )
        self._digests = {
            "corpus": self._corpus_digest(),
            "id_images": images_digest(images.sources, images.labels),
            "proxy_images": contents_digest(images.used),
        }
        self._proxy_keys = images.keys
        _warn_of_equal_texts(space)
        detector = self._fitted_to(space)
        with self._lock:
            self._detector, self._guard = detector, None
            self._restart()
        return self

    def _fitted_to(self, space: TextSpace) -> ProtectedInterNeg:
        settings = self.settings
        if 0 < len(space.negatives) < settings.groups:
            raise SettingsError(
                f"groups is {settings.groups}, but there are only {len(space.negatives)} "
                "negative texts: no group would have any. Use fewer groups or another corpus"
            )
        if len(space.negatives) == 0:
            warnings.warn(
                "there are no negative texts, so every image scores 1 and none is unknown; "
                "raise num_negatives, or use another corpus",
                stacklevel=3,
            )
        inverter: Inverter | None = None
        if settings.inverts:
            inverter = live_inverter(self.backbone, settings)
        return ProtectedInterNeg(settings, inverter, self.protections).fit(space)

    def _corpus_digest(self) -> str:
        if self.settings.negatives == "none" or self.settings.num_negatives == 0:
            return ""
        return load_corpus(self.settings.corpus).digest

    def __repr__(self) -> str:
        """The method, the model and how far it is; loads nothing."""
        source, pretrained, _, precision = self._source
        name = f"{source} {pretrained}" if pretrained else str(source)
        if self._backbone is not None:
            name, precision = self._backbone.name, self._backbone.precision
        parts = [f"InterNeg on {name} ({precision})"]
        if self._detector is None:
            parts.append("not fitted")
        else:
            space, bank = self.space, self._detector.bank
            parts.append(f"{len(space.class_names)} classes")
            parts.append(f"{len(space.negatives)} negative texts")
            if self._gamma is None:
                parts.append("not calibrated")
            else:
                watched = self._detector.guard
                by_images = watched is not None and watched[1] == self._gamma
                how = f"calibrated at tpr {self._tpr:g}" if by_images else "set"
                parts.append(f"gamma {self._gamma:.6g} ({how})")
            parts.append(f"{self.position} images seen")
            parts.append(f"bank {len(bank)} of {bank.capacity}")
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    @property
    def backbone(self) -> Backbone:
        """The frozen model, loaded now if it was not before."""
        with self._lock:
            if self._backbone is None:
                source, pretrained, device, precision = self._source
                self._backbone = load_backbone(
                    source, pretrained=pretrained, device=device, precision=precision
                )
            return self._backbone

    @property
    def preprocess(self):
        """What happens to an image before the model sees it."""
        return self.backbone.preprocess.variant(self._preprocess_name)

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
        return self._gamma

    @gamma.setter
    def gamma(self, value: float | None) -> None:
        if value is not None:
            value = value.item() if isinstance(value, np.generic) else value
            value = checked("gamma", value, float, {"low": 0, "high": 1})
        self._gamma = value

    @property
    def tpr(self) -> float:
        """Share of ID images that `calibrate` was told to let pass."""
        return self._tpr

    def _fitted(self) -> ProtectedInterNeg:
        if self._detector is None:
            raise DetectorError("the detector was not fitted; call fit(class_names, id_images)")
        return self._detector

    # ---- scoring ---------------------------------------------------------------------------

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
        gamma = self._threshold()
        pred, score = self._scores(images, update)
        names = self.class_names
        return [
            (names[p] if s >= gamma else UNKNOWN, s)
            for p, s in zip(pred.tolist(), score.tolist(), strict=True)
        ]

    def score_features(
        self, features: Tensor, keys: Tensor | None = None, *, update: bool = True
    ) -> Scores:
        """As `score` for unit image features (n, D), with the images' keys (n,) int64."""
        self._fitted()
        with self._updating("another call of score_features", update) as turn:
            return self._score_features(features, keys, turn)

    def _score_features(self, features: Tensor, keys: Tensor | None, turn: Turn | None) -> Scores:
        """Scores under a turn, or without one: then nothing is remembered."""
        features = features.to(self.space.device, torch.float32)
        if keys is None:
            keys = torch.zeros(len(features), dtype=torch.int64)
        if len(keys) != len(features):
            raise DetectorError(f"{len(features)} features come with {len(keys)} keys")
        if len(features) == 0:
            return Scores(keys, features.new_zeros(0))
        with self._lock if turn is None else self._turns.used(turn):
            detector = self._fitted()
            if turn is None:
                return _finite(detector.peek(features))
            self._may_watch()
            parts = [
                detector.step(rows, marks)
                for rows, marks in zip(
                    features.split(self.batch_size), keys.split(self.batch_size), strict=True
                )
            ]
            self._advance(len(features))
            self.begun, self._names = self.position, ""
        pred, score = (torch.cat(column) for column in zip(*parts, strict=True))
        return _finite(Scores(pred, score))

    def _scores(self, images: Any, update: bool) -> tuple[np.ndarray, np.ndarray]:
        self._fitted()
        with self._updating("another call of score or predict", update) as turn:
            sources = as_sources(images)
            if not sources:
                return np.zeros(0, np.int64), np.zeros(0, np.float32)
            features, keys = self._encode(sources)
            pred, score = self._score_features(features, keys, turn)
        return pred.cpu().numpy(), score.cpu().numpy()

    def _threshold(self) -> float:
        self._fitted()
        if self._gamma is None:
            raise DetectorError(
                "there is no threshold yet; call calibrate(id_images) with ID images that are not "
                "the proxies', or set gamma"
            )
        return self._gamma

    def _prepare(self, source: Any) -> tuple[Tensor, int]:
        """(3, size, size) pixels for the model and the picture's key."""
        image = as_image(source, self.limits)
        if self._transform is None:
            self._transform = self.preprocess.transform()
        return self._transform(image), content_id(image)

    def _encode(
        self, sources: Sequence[Any], tell: Callable[[int], None] = lambda n: None
    ) -> tuple[Tensor, Tensor]:
        """Features (n, D) and keys (n,) of images; an unreadable one is an error."""
        features, keys = [], []
        for begin in range(0, len(sources), self.batch_size):
            pixels = []
            for place in range(begin, min(begin + self.batch_size, len(sources))):
                try:
                    tensor, key = self._prepare(sources[place])
                except ImageError as error:
                    raise ImageError(f"image {place}: {error}") from error
                pixels.append(tensor)
                keys.append(key)
            features.append(self.backbone.encode_image(torch.stack(pixels)))
            tell(len(pixels))
        return torch.cat(features), torch.tensor(keys, dtype=torch.int64)

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
            ImageError: with "stop". StateError: the images to be skipped are others.
        """
        self._threshold()
        checked("on_error", on_error, Literal["skip", "stop"], {})
        checked("workers", workers, int, {"low": 0, "high": MOST_WORKERS})
        return self._streamed(images, on_error, resume, workers)

    def _streamed(
        self, images: Iterable[Any], on_error: str, resume: bool, workers: int
    ) -> Iterator[list[Scored]]:
        iterator, device = iter(images), self.space.device
        with self._updating("another stream") as turn:
            with self._turns.used(turn):
                if resume:
                    self._skip(iterator)
                else:
                    self.begun, self._names = self.position, ""
            with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
                do = pool.map if pool else map
                batches = iter(lambda: list(itertools.islice(iterator, self.batch_size)), [])
                overlap = None if isinstance(images, Sequence) else False
                for batch, found in encoded_ahead(
                    batches, lambda batch: self._encode_readable(batch, do), device, overlap=overlap
                ):
                    yield self._stream_batch(batch, *found, on_error, turn)

    def _skip(self, iterator: Iterator[Any]) -> None:
        count = self.position - self.begun
        digest = ""
        for place in range(count):
            try:
                digest = chained(digest, _name(next(iterator), self.begun + place))
            except StopIteration:
                raise StateError(
                    f"the state stands after {count} images, the input has only {place}; it is "
                    "not the stream that was interrupted"
                ) from None
        if digest != self._names:
            raise StateError(
                f"the first {count} images of the input are not those that were scored; give the "
                "same input again, or start a new state"
            )

    def _stream_batch(
        self, batch: list[Any], features: Tensor | None, found: list, on_error: str, turn: Turn
    ) -> list[Scored]:
        names = [_name(source, self.position + i) for i, source in enumerate(batch)]
        for place, entry in enumerate(found):
            if isinstance(entry, str) and on_error == "stop":
                raise ImageError(f"{entry} (position {self.position + place} of the stream)")
        keys = torch.tensor([e for e in found if not isinstance(e, str)], dtype=torch.int64)
        with self._turns.used(turn):
            self._may_watch()
            gamma, classes = self._threshold(), self.class_names
            rows: Iterator[tuple[int, float]] = iter(())
            if len(keys):
                pred, score = _finite(self._fitted().step(features, keys))
                rows = zip(pred.tolist(), score.tolist(), strict=True)
            out = []
            for place, (name, entry) in enumerate(zip(names, found, strict=True)):
                at = self.position + place
                if isinstance(entry, str):
                    out.append(Scored(at, name, error=entry))
                    continue
                label, score = next(rows)
                said = classes[label] if score >= gamma else UNKNOWN
                out.append(Scored(at, name, classes[label], said, score))
            self._advance(len(batch))
            self.failed += len(batch) - len(keys)
            for name in names:
                self._names = chained(self._names, name)
        return out

    def _encode_readable(self, batch: list[Any], do: Callable) -> tuple[Tensor | None, list]:
        """Features of the readable images, and for each image its key or what is wrong with it.

        An image whose feature is not finite is one with something wrong, too.
        """

        def attempt(source: Any) -> tuple[Tensor, int] | str:
            try:
                return self._prepare(source)
            except ImageError as error:
                return str(error)

        prepared = list(do(attempt, batch))
        found = [entry if isinstance(entry, str) else entry[1] for entry in prepared]
        pixels = {i: entry[0] for i, entry in enumerate(prepared) if not isinstance(entry, str)}
        if not pixels:
            return None, found
        try:
            return self.backbone.encode_image(torch.stack(list(pixels.values()))), found
        except FeatureError:
            rows = []
            for i, image in pixels.items():
                try:
                    rows.append(self.backbone.encode_image(image[None]))
                except FeatureError as error:
                    found[i] = str(error)
            return torch.cat(rows) if rows else None, found

    def _may_watch(self) -> None:
        if self.protections.watches and self._guard is None:
            raise DetectorError("id_guard and recalibrate need ID images to watch; calibrate first")

    # ---- threads ---------------------------------------------------------------------------

    @property
    def threads(self) -> str:
        """What happens to updates that overlap: "refuse" or "arrival"."""
        return self._turns.mode

    @contextmanager
    def _updating(self, what: str, update: bool = True) -> Iterator[Turn | None]:
        """Holds the turn; None without `update`."""
        if not update:
            yield None
        else:
            # Without a bank there is nothing to remember, and nobody to disturb.
            with self._turns.held(what, self._fitted().bank.capacity > 0) as turn:
                yield turn

    def __getstate__(self):
        raise DetectorError(
            "a detector is not pickled; save(path) it and load(path) it in the other process"
        )

    # ---- threshold, memory, explanation ----------------------------------------------------

    def calibrate(
        self, id_images: Any, tpr: float = 0.95, *, progress: Progress | bool | None = None
    ) -> float:
        """Sets gamma so that at least the share `tpr` of ID images is not unknown.

        The scores are those with the bank as it is now; the bank does not change. Images that
        made the proxies score too high: they are left out, with a warning.

        Args:
            id_images: as for `fit` or `score`; labels are not looked at.
            tpr: between 0 and 1. progress: as for `fit`.

        Returns:
            gamma.

        Raises:
            DetectorError: no image is left. SettingsError: tpr out of range.
        """
        self._fitted()
        if checked("tpr", tpr, float, {"low": 0, "high": 1}) == 0:
            raise SettingsError("tpr is 0, and every image would be unknown; it lies above 0")
        sources = unlabelled_images(id_images)
        features, keys = [], []
        with told(progress) as tell:
            for begin in range(0, len(sources), self.batch_size):
                part, marks = self._encode(sources[begin : begin + self.batch_size])
                fresh = [i for i, key in enumerate(marks.tolist()) if key not in self._proxy_keys]
                features.append(part[fresh])
                keys += marks[fresh].tolist()
                tell("calibration images", len(part), len(sources))
        if not keys:
            raise DetectorError(
                "there is no image to calibrate with: give ID images, other ones than those that "
                "fit read for the image proxies"
            )
        if len(keys) < len(sources):
            warnings.warn(
                f"{len(sources) - len(keys)} of {len(sources)} calibration images made the image "
                "proxies and are left out",
                stacklevel=2,
            )
        if len(keys) < FEW_IMAGES:
            warnings.warn(f"gamma rests on {len(keys)} images only", stacklevel=2)
        rows = torch.cat(features)
        self.gamma = _reached(self.score_features(rows, update=False).score, tpr)
        every = max(len(rows) // GUARD_IMAGES, 1)
        with self._lock:
            self._guard, self._tpr = rows[::every][:GUARD_IMAGES].clone(), float(tpr)
            self._fitted().watch(self._guard, self.gamma)
        return self.gamma

    def recalibrate(self) -> float:
        """Takes gamma anew, for the bank as it is now, from the images of `calibrate` (of more
        than 256, every so many). A bank that grows lowers the scores of ID images, too.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        self._fitted()
        with self._lock:
            if self._guard is None:
                raise DetectorError("there are no calibration images; call calibrate first")
            self.gamma = _reached(self._fitted().peek(self._guard).score, self._tpr)
            self._fitted().watch(self._guard, self.gamma)
            return self.gamma

    def false_alarms(self) -> float:
        """Share of the calibration images that are unknown with the bank as it is now.

        Raises:
            DetectorError: `calibrate` was not called.
        """
        self._fitted()
        with self._lock:
            if self._guard is None or self._gamma is None:
                raise DetectorError("there are no calibration images; call calibrate first")
            return float((self._fitted().peek(self._guard).score < self._gamma).float().mean())

    def _advance(self, count: int) -> None:
        """The stream has brought `count` images more."""
        before, self.position = self.position, self.position + count
        every = self.protections.recalibrate
        if every and self.position // every > before // every:
            self.recalibrate()
        elif not every and self.position // LOOK_EVERY > before // LOOK_EVERY:
            self._warn_of_drift()

    def _warn_of_drift(self) -> None:
        """Says once in a stream that gamma has become too strict."""
        calibrated = self._guard is not None and self._gamma is not None
        if self._warned or not calibrated or not self.bank_size:
            return
        share = self.false_alarms()
        if share > 1 - self._tpr + DRIFT:
            self._warned = True
            warnings.warn(
                f"{share:.0%} of the calibration images would now be unknown: the bank has grown "
                f"to {self.bank_size} entries and gamma is from before. Call recalibrate() now and "
                "then, or set the protection recalibrate=100",
                stacklevel=4,
            )

    def reset(self) -> None:
        """Forgets the stream: the bank, the position. Classes and gamma stay."""
        with self._lock:
            self._fitted().reset()
            self._restart()

    def _restart(self) -> None:
        self.position = 0  # images that the stream has brought, unreadable ones included
        self.failed = 0  # unreadable ones
        self.note: dict[str, Any] = {}  # what a caller keeps in the state
        self.begun, self._names = 0, ""  # where the present input began, digest of its names
        self._warned = False  # that gamma has become too strict
        self._turns.restart()

    def explain(self, image: Any, top: int = 5) -> Explanation:
        """Which texts and which bank entries decide an image's score; nothing is remembered.

        The shares are of the softmax over all labels, negatives and bank entries (G = 1).
        """
        self._fitted()
        top = checked("top", top, int, {"low": 1})
        sources = as_sources(image)
        if len(sources) != 1:
            raise ImageError(f"explain takes one image, not {len(sources)}")
        (source,) = sources
        features, _ = self._encode([source])
        with self._lock:
            detector = self._fitted()
            label, score = (column[0].item() for column in detector.peek(features))
            bank, keys = detector.bank.features.clone(), detector.bank.ids.tolist()
            gamma = self._gamma
        known = None if gamma is None else score >= gamma
        prediction = {None: None, True: self.class_names[label], False: UNKNOWN}[known]
        return explain(
            features[0],
            detector.space,
            bank,
            keys,
            score=score,
            prediction=prediction,
            known=known,
            scale=detector.space.logit_scale / self.settings.tau,
            top=top,
        )


def _name(source: Any, position: int) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"#{position}"


def _reached(scores: Tensor, tpr: float) -> float:
    """The score that at least the share `tpr` of images reaches."""
    ordered = np.sort(scores.cpu().numpy())
    return float(ordered[int((1 - tpr) * len(ordered) + 1e-9)])


def _finite(scores: Scores) -> Scores:
    if not bool(torch.isfinite(scores.score).all()):
        raise DetectorError("a score is not finite; check the model's precision and the settings")
    return scores


def _warn_of_equal_texts(space: TextSpace) -> None:
    """Long names are cut by CLIP's tokenizer, and then two may be one text."""
    cosine = space.labels @ space.labels.t()
    same = (cosine.triu(diagonal=1) > 1 - 1e-6).nonzero()
    if len(same):
        a, b = (space.class_names[i][:60] for i in same[0].tolist())
        warnings.warn(
            f"CLIP sees no difference between {a!r} and {b!r} ({len(same)} such pairs); shorten "
            "or rename them",
            stacklevel=3,
        )

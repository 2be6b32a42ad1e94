"""From images of any origin to unit features; the model is loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.encode import FeatureKind, Views, encode_pixels, view_maker
from openood_interneg.data.image_ids import content_id
from openood_interneg.data.images import ImageError
from openood_interneg.vlm.backbones import Backbone, FeatureError, Precision
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess

Found = int | str  # the id of a picture, or what is wrong with it
Map = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]


class ImageEncoder:
    """A backbone with a way to read and prepare images.

    Args:
        source: a name for `load_backbone`, or a `Backbone`.
        pretrained: for the backbone's name.
        device: for the backbone's name.
        precision: for the backbone's name.
        preprocess: "clip" or "openood_vlm".
        limits: which images are refused.
        batch_size: images that are encoded together.
        kind: what a method's features are of (`Method.features_of`).
    """

    def __init__(
        self,
        source: str | Path | Backbone,
        *,
        pretrained: str | None,
        device: str,
        precision: Precision,
        preprocess: str,
        limits: ImageLimits,
        batch_size: int,
        kind: FeatureKind = "image",
    ):
        self.source, self.pretrained = source, pretrained
        self.device, self.precision = device, precision
        self.variant = preprocess
        self.limits, self.batch_size, self.kind = limits, batch_size, kind
        self._lock = threading.Lock()
        self._backbone = source if isinstance(source, Backbone) else None
        self._transform: Callable[[Image.Image], Tensor] | None = None

    @property
    def backbone(self) -> Backbone:
        """The frozen model, loaded now if it was not before."""
        with self._lock:
            if self._backbone is None:
                assert not isinstance(self.source, Backbone)
                self._backbone = load_backbone(
                    self.source,
                    pretrained=self.pretrained,
                    device=self.device,
                    precision=self.precision,
                )
            return self._backbone

    @property
    def preprocess(self) -> Preprocess:
        """What happens to an image before the model sees it."""
        return self.backbone.preprocess.variant(self.variant)

    def __repr__(self) -> str:
        """The model's name and precision; loads nothing."""
        if self._backbone is not None:
            return f"{self._backbone.name} ({self._backbone.precision})"
        name = f"{self.source} {self.pretrained}" if self.pretrained else str(self.source)
        return f"{name} ({self.precision})"

    def share(self, other: ImageEncoder) -> None:
        """Takes over the model of another encoder that was made with the same arguments."""
        same = ("source", "pretrained", "device", "precision")
        if all(getattr(self, name) == getattr(other, name) for name in same):
            self._backbone = other._backbone

    def prepare(self, source: Any, kind: FeatureKind | None = None) -> tuple[Tensor, int]:
        """Pixels for the model, (3, size, size) or (V, 3, size, size), and the picture's id.

        Args:
            source: an image.
            kind: what its features are to be of; by default what the method takes.

        Raises:
            ImageError: it cannot be read.
        """
        image = as_image(source, self.limits)
        if self._transform is None:
            self._transform = self.preprocess.transform()
        number, kind = content_id(image), kind or self.kind
        if isinstance(kind, Views):
            views = view_maker(kind, self.preprocess)(image, number)
            return torch.stack([self._transform(view) for view in views]), number
        return self._transform(image), number

    def encode(
        self,
        sources: Sequence[Any],
        advance: Callable[[int], None] = lambda count: None,
        kind: FeatureKind | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features (n, D), or (V, n, D) of views or patches, and ids (n,) of images.

        Args:
            sources: images, at least one.
            advance: told after each batch how many images it had.
            kind: what the features are of; by default what the method takes.

        Raises:
            ImageError: one cannot be read.
        """
        features, ids = [], []
        for begin in range(0, len(sources), self.batch_size):
            pixels = []
            for place in range(begin, min(begin + self.batch_size, len(sources))):
                try:
                    tensor, image = self.prepare(sources[place], kind)
                except ImageError as error:
                    raise ImageError(f"image {place}: {error}") from error
                pixels.append(tensor)
                ids.append(image)
            features.append(self.features(torch.stack(pixels), kind))
            advance(len(pixels))
        return torch.cat(features, dim=-2), torch.tensor(ids, dtype=torch.int64)

    def encode_readable(self, batch: list[Any], do: Map) -> tuple[Tensor | None, list[Found]]:
        """Features of the readable images, and for each image its id or what is wrong with it.

        An image whose feature is not finite is one with something wrong, too.

        Args:
            batch: images.
            do: `map`, or that of a pool of threads.
        """

        def attempt(source: Any) -> tuple[Tensor, int] | str:
            try:
                return self.prepare(source)
            except ImageError as error:
                return str(error)

        prepared = list(do(attempt, batch))
        found: list[Found] = [entry if isinstance(entry, str) else entry[1] for entry in prepared]
        pixels = {i: entry[0] for i, entry in enumerate(prepared) if not isinstance(entry, str)}
        if not pixels:
            return None, found
        try:
            return self.features(torch.stack(list(pixels.values()))), found
        except FeatureError:
            rows = []
            for i, image in pixels.items():
                try:
                    rows.append(self.features(image[None]))
                except FeatureError as error:
                    found[i] = str(error)
            return torch.cat(rows, dim=-2) if rows else None, found

    def features(self, pixels: Tensor, kind: FeatureKind | None = None) -> Tensor:
        """Features (B, D), or (V, B, D) of views or patches.

        Args:
            pixels: a batch of what `prepare` gives.
            kind: as for `prepare`.

        Raises:
            FeatureError: one is not finite.
        """
        kind = kind or self.kind
        features = encode_pixels(self.backbone, pixels, kind)
        return features.transpose(0, 1).contiguous() if isinstance(kind, Views) else features

    # ---- what a state on disk is compared with -----------------------------------------------

    def identity(self) -> dict[str, Any]:
        """The model as a state names it."""
        backbone = self.backbone
        named = not isinstance(self.source, Backbone)
        return {
            "name": backbone.name,
            "weights": backbone.digest,
            "precision": backbone.precision,
            # Told in messages only: a state never decides which file is opened.
            "source": str(self.source) if named else None,
            "pretrained": None if self.pretrained is None else str(self.pretrained),
        }

    def preprocess_key(self) -> dict[str, Any]:
        """The preprocessing as a state holds it."""
        return _plain(self.preprocess.key()) | {"variant": self.variant}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

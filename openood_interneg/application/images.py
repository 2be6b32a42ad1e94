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
    ):
        self.source, self.pretrained = source, pretrained
        self.device, self.precision = device, precision
        self.variant = preprocess
        self.limits, self.batch_size = limits, batch_size
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

    def prepare(self, source: Any) -> tuple[Tensor, int]:
        """(3, size, size) pixels for the model and the picture's id.

        Raises:
            ImageError: it cannot be read.
        """
        image = as_image(source, self.limits)
        if self._transform is None:
            self._transform = self.preprocess.transform()
        return self._transform(image), content_id(image)

    def encode(
        self, sources: Sequence[Any], advance: Callable[[int], None] = lambda count: None
    ) -> tuple[Tensor, Tensor]:
        """Features (n, D) and ids (n,) of images.

        Args:
            sources: images, at least one.
            advance: told after each batch how many images it had.

        Raises:
            ImageError: one cannot be read.
        """
        features, ids = [], []
        for begin in range(0, len(sources), self.batch_size):
            pixels = []
            for place in range(begin, min(begin + self.batch_size, len(sources))):
                try:
                    tensor, image = self.prepare(sources[place])
                except ImageError as error:
                    raise ImageError(f"image {place}: {error}") from error
                pixels.append(tensor)
                ids.append(image)
            features.append(self.backbone.encode_image(torch.stack(pixels)))
            advance(len(pixels))
        return torch.cat(features), torch.tensor(ids, dtype=torch.int64)

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
            return self.backbone.encode_image(torch.stack(list(pixels.values()))), found
        except FeatureError:
            rows = []
            for i, image in pixels.items():
                try:
                    rows.append(self.backbone.encode_image(image[None]))
                except FeatureError as error:
                    found[i] = str(error)
            return torch.cat(rows) if rows else None, found

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

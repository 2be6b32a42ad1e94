"""Image features, encoded once and kept: every method, seed and protocol replays from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from openood_interneg.data.benchmark import ImageList
from openood_interneg.data.images import ImageError, ImageFiles
from openood_interneg.data.store import Entry, Rows, Store
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess

IMAGES_PER_SHARD = 512

Progress = Callable[[str, int, int], None]  # what, finished since the last call, total
FeatureKind = Literal["image", "views", "patches"]


def backbone_key(backbone: Backbone) -> dict[str, str]:
    """What of a backbone decides its features; every key of the store holds it.

    `Backbone.digest` covers weights and architecture. The device is left out: its last bits
    differ from run to run as well.
    """
    return {"weights": backbone.digest, "precision": backbone.precision}


class FeatureSource:
    """Encodes image lists through a backbone and the store.

    Args:
        backbone: the frozen model.
        store: where features are kept.
        preprocess: by default the backbone's own.
        batch_size: images per forward pass. workers: processes that read and decode.
        shard_rows: images per file of the store; another number is another entry.
        progress: told of images encoded.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        *,
        preprocess: Preprocess | None = None,
        batch_size: int = 128,
        workers: int = 0,
        shard_rows: int = IMAGES_PER_SHARD,
        progress: Progress | None = None,
    ):
        self.backbone, self.store = backbone, store
        self.preprocess = preprocess or backbone.preprocess
        self.batch_size, self.workers, self.shard_rows = batch_size, workers, shard_rows
        self.progress = progress or (lambda what, done, total: None)
        self.encoded = 0  # images encoded by this object, as against read from the store

    def key(self, images: ImageList) -> dict:
        """What decides the features of an image list."""
        return {
            **backbone_key(self.backbone),
            "preprocess": self.preprocess.key(),
            "images": images.digest,
        }

    def features(self, images: ImageList) -> Tensor:
        """(n, D) float32 unit image features on the backbone's device.

        Raises:
            ImageError: an image cannot be read; shards finished before it stay.
        """
        return self.encode(images).read_all()["features"].to(self.backbone.device)

    def encode(self, images: ImageList) -> Entry:
        """The entry of the store with the features of all images.

        Encoding resumes at the first missing shard. Batches start anew in every shard, so what a
        shard holds does not depend on which others were missing, or on who computes it.

        Raises:
            ImageError: an image cannot be read; shards finished before it stay.
        """
        layout = {"features": Rows((self.backbone.embed_dim,), values="unit")}
        entry = self.store.entry("features", self.key(images), len(images), self.shard_rows, layout)
        entry.fill(lambda shards: self._encode(images, [entry.span(shard) for shard in shards]))
        return entry

    def _encode(self, images: ImageList, spans: list[slice]) -> Iterator[dict[str, Tensor]]:
        """Features of each span of an image list."""
        files = ImageFiles(
            [images.file(i) for i in range(len(images))],
            self.preprocess.transform(),
            self.preprocess.size,
        )
        batches = [
            range(begin, min(begin + self.batch_size, span.stop))
            for span in spans
            for begin in range(span.start, span.stop, self.batch_size)
        ]
        loader = DataLoader(
            files,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=self.backbone.device.type == "cuda",
        )
        total = sum(span.stop - span.start for span in spans)
        decoded = iter(loader)
        for span in spans:
            parts: list[Tensor] = []
            while sum(map(len, parts)) < span.stop - span.start:
                pixels, errors = next(decoded)
                for error in errors:
                    if error:
                        raise ImageError(error)
                parts.append(self.backbone.encode_image(pixels).cpu())
                self.encoded += len(pixels)
                self.progress(images.name, len(pixels), total)
            yield {"features": torch.cat(parts)}


class ListedIdImages:
    """ID training images of a benchmark; only those asked for are read."""

    def __init__(self, images: ImageList, source: FeatureSource):
        self.images, self.source = images, source
        self.labels = images.labels

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        return self.source.features(self.images.subset(indices))

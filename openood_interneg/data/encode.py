"""Image features, encoded once and stored: every method, seed and protocol reads them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.images import ImageError, ImageFiles
from openood_interneg.data.store import Entry, Rows, Store
from openood_interneg.data.views import ViewFiles, ViewMaker, view_names
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.patches import encode_with_patches
from openood_interneg.vlm.preprocess import Preprocess

IMAGES_PER_SHARD = 512
VIEW_IMAGES_PER_SHARD = 256
PATCH_LIMIT = 8 * 2**30  # bytes of patch features that are held at once

Progress = Callable[[str, int, int], None]  # what, finished since the last call, total


@dataclass(frozen=True)
class Views:
    """Features are of an image's corrupted copies.

    Attributes:
        names: a set of views, as `data.views.view_names` knows it, the image itself first; or the
            views, as ("fog-2",).
        seed: of the random corruptions; a view depends on it and on the image's name alone.
        size: at which copies are made, in pixels; 0 is 224 or the model's own size, if smaller.
    """

    names: str | tuple[str, ...]
    seed: int = 0
    size: int = 0


FeatureKind = Literal["image", "patches"] | Views


def kind_name(kind: FeatureKind) -> Literal["image", "patches", "views"]:
    """A kind in one word: image, patches or views."""
    return "views" if isinstance(kind, Views) else kind


def backbone_key(backbone: Backbone) -> dict[str, str]:
    """The part of a store key that identifies the backbone.

    `Backbone.digest` covers weights and architecture. The device is left out: its last bits
    differ from run to run as well.
    """
    return {"weights": backbone.digest, "precision": backbone.precision}


class Encoder:
    """Encodes image lists through a backbone and the store: the only loop from images to features.

    Args:
        backbone: the frozen model.
        store: where features are kept.
        preprocess: by default the backbone's own.
        batch_size: images per forward pass.
        workers: processes that read and decode.
        shard_rows: images per file of the store; another number is another entry.
        progress: called with the name of the set, the images encoded since the last call, and how
            many there are.
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
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.encoded = 0  # images encoded by this object, as against read from the store

    def key(self, images: ImageList) -> dict[str, Any]:
        """What decides the features of an image list."""
        return {
            **backbone_key(self.backbone),
            "preprocess": self.preprocess.key(),
            "images": images.digest,
        }

    def features(self, images: ImageList, kind: FeatureKind = "image") -> Tensor:
        """Features of a set of images as a method takes them, on the backbone's device.

        Those of images and views are kept in the store; those of patches are too large for it.

        Args:
            images: the set.
            kind: what the features are of (`Method.features_of`).

        Returns:
            float32 unit rows: (n, D) of the images; (V, n, D) of their views; or (1 + P, n, D) of
            the images and their patches.

        Raises:
            ImageError: an image cannot be read; shards finished before it stay.
            SettingsError: patch features that would not fit in memory.
            PatchError: patch features of a backbone without patches.
        """
        if kind == "patches":
            return self._patches(images)
        stored = self.entry(images, kind).read_all()["features"].to(self.backbone.device)
        return stored if kind == "image" else stored.transpose(0, 1).contiguous()

    def entry(self, images: ImageList, kind: Literal["image"] | Views = "image") -> Entry:
        """The entry of the store with the features of all images, (n, D) or (n, V, D).

        Encoding resumes at the first missing shard. Batches start anew in every shard, so what a
        shard holds does not depend on which others were missing, or on who computes it.

        Raises:
            ImageError: an image cannot be read; shards finished before it stay.
        """
        key, dim = self.key(images), self.backbone.embed_dim
        if kind == "image":
            layout = {"features": Rows((dim,), values="unit")}
            entry = self.store.entry("features", key, len(images), self.shard_rows, layout)
        else:
            maker = view_maker(kind, self.preprocess)
            key |= {"views": maker.names, "seed": maker.seed, "size": maker.size}
            layout = {"features": Rows((len(maker.names), dim), values="unit")}
            entry = self.store.entry("views", key, len(images), VIEW_IMAGES_PER_SHARD, layout)
        entry.fill(lambda shards: self._shards(images, kind, [entry.span(s) for s in shards]))
        return entry

    def _shards(
        self, images: ImageList, kind: FeatureKind, spans: list[slice]
    ) -> Iterator[dict[str, Tensor]]:
        """Features of each span of an image list."""
        batches = self._batches(images, kind, spans)
        for span in spans:
            parts: list[Tensor] = []
            while sum(map(len, parts)) < span.stop - span.start:
                parts.append(next(batches).cpu())
            yield {"features": torch.cat(parts)}

    def _patches(self, images: ImageList) -> Tensor:
        parts = []
        for part in self._batches(images, "patches", [slice(0, len(images))]):
            if part[:, 0].numel() * part.element_size() * len(images) > PATCH_LIMIT:
                raise SettingsError(
                    f"the patch features of {len(images)} images of '{images.name}' would take "
                    f"more than {PATCH_LIMIT // 2**30} GiB; take fewer images with --limit"
                )
            parts.append(part)
        return torch.cat(parts, dim=1)

    def _batches(
        self, images: ImageList, kind: FeatureKind, spans: list[slice]
    ) -> Iterator[Tensor]:
        """Features batch by batch: (B, D), (B, V, D) or (1 + P, B, D)."""
        paths = [images.file(i) for i in range(len(images))]
        transform, size = self.preprocess.transform(), self.preprocess.size
        files: Dataset[tuple[Tensor, str]] = ImageFiles(paths, transform, size)
        batch_size, what = self.batch_size, images.name
        if kind != "image":
            what += f", {kind_name(kind)}"
        if isinstance(kind, Views):
            maker = view_maker(kind, self.preprocess)
            files = ViewFiles(paths, images.paths, maker, transform, size)
            batch_size = max(self.batch_size // len(maker.names), 1)
        loader = DataLoader(
            files,
            batch_sampler=[
                list(range(begin, min(begin + batch_size, span.stop)))
                for span in spans
                for begin in range(span.start, span.stop, batch_size)
            ],
            num_workers=self.workers,
            pin_memory=self.backbone.device.type == "cuda",
        )
        total = sum(span.stop - span.start for span in spans)
        for pixels, errors in loader:
            for error in errors:
                if error:
                    raise ImageError(error)
            features = encode_pixels(self.backbone, pixels, kind)
            if kind == "image":
                self.encoded += len(pixels)
            self.progress(what, len(pixels), total)
            yield features


def view_maker(kind: Views, preprocess: Preprocess) -> ViewMaker:
    """What makes the corrupted copies for a model.

    Raises:
        ViewError: unknown views.
    """
    names = view_names(kind.names) if isinstance(kind.names, str) else kind.names
    return ViewMaker(names, kind.seed, size=kind.size or min(224, preprocess.size))


def encode_pixels(backbone: Backbone, pixels: Tensor, kind: FeatureKind) -> Tensor:
    """Features of one batch of preprocessed pixels.

    Args:
        backbone: the frozen model.
        pixels: (B, 3, H, W), or for views (B, V, 3, H, W).
        kind: what the features are of.

    Returns:
        (B, D) of the images, (B, V, D) of their views, or (1 + P, B, D) of the images and their
        patches.
    """
    if kind == "patches":
        return encode_with_patches(backbone, pixels.to(backbone.device))
    if isinstance(kind, Views):
        return backbone.encode_image(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)
    return backbone.encode_image(pixels)


class ListedIdImages:
    """ID training images of a benchmark; only those asked for are read."""

    def __init__(self, images: ImageList, encoder: Encoder):
        self.images, self.encoder = images, encoder
        self.labels = images.labels

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        return self.encoder.features(self.images.subset(indices))

"""Features of an image's views: corrupted copies (CoVer), or its patches (GL-MCM, Local-Prompt)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openood_interneg.data.benchmark import ImageList
from openood_interneg.data.corruptions import ViewMaker, views
from openood_interneg.data.encode import FeatureKind, FeatureSource
from openood_interneg.data.image_ids import image_id
from openood_interneg.data.images import ImageError, ImageFiles, read_rgb
from openood_interneg.data.store import Rows
from openood_interneg.settings import SettingsError, TextSpaceSettings
from openood_interneg.vlm.patches import encode_with_patches

VIEW_IMAGES_PER_SHARD = 256
PATCH_LIMIT = 8 * 2**30  # bytes of patch features that are held at once


class _ViewFiles(Dataset):
    """Files -> ((V, 3, H, W) pixels, error text)."""

    def __init__(self, paths: list[Path], names: list[str], maker: ViewMaker, transform, size: int):
        self.paths, self.names, self.maker = paths, names, maker
        self.transform, self.size = transform, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        try:
            image = read_rgb(self.paths[index])
        except ImageError as error:
            return torch.zeros(len(self.maker.names), 3, self.size, self.size), str(error)
        made = self.maker(image, image_id(self.names[index]))
        return torch.stack([self.transform(view) for view in made]), ""


def view_features(source: FeatureSource, images: ImageList, name: str, seed: int) -> Tensor:
    """Features of the views of every image, (V, n, D), encoded once and kept.

    Corrupted copies are made at 224 pixels, or at the backbone's own size where that is smaller.

    Args:
        source: whose backbone, preprocessing and store are used. name: set of views. seed: of
            the random corruptions; a view depends on it and on the image's name alone.
    """
    names = views(name)
    maker = ViewMaker(names, seed, size=min(224, source.preprocess.size))
    key = source.key(images) | {"views": names, "seed": seed, "size": maker.size}
    layout = {"features": Rows((len(names), source.backbone.embed_dim), values="unit")}
    entry = source.store.entry("views", key, len(images), VIEW_IMAGES_PER_SHARD, layout)
    batch = max(source.batch_size // len(names), 1)

    def compute(shards: list[int]) -> Iterator[dict[str, Tensor]]:
        for shard in shards:
            rows = range(entry.span(shard).start, entry.span(shard).stop)
            files = _ViewFiles(
                [images.file(i) for i in rows],
                [images.paths[i] for i in rows],
                maker,
                source.preprocess.transform(),
                source.preprocess.size,
            )
            parts = []
            for pixels, errors in DataLoader(files, batch, num_workers=source.workers):
                _raise_first(errors)
                flat = source.backbone.encode_image(pixels.flatten(0, 1))
                parts.append(flat.view(*pixels.shape[:2], -1).cpu())
                source.progress(f"{images.name}, views", len(pixels), len(images))
            yield {"features": torch.cat(parts)}

    entry.fill(compute)
    stored = entry.read_all()["features"].to(source.backbone.device)
    return stored.transpose(0, 1).contiguous()  # (V, n, D)


def patch_features(source: FeatureSource, images: ImageList) -> Tensor:
    """Features of every image and its patches, (1 + P, n, D); held, not stored.

    Raises:
        SettingsError: they would not fit in memory. PatchError: a backbone without patches.
    """
    files = ImageFiles(
        [images.file(i) for i in range(len(images))],
        source.preprocess.transform(),
        source.preprocess.size,
    )
    parts = []
    for pixels, errors in DataLoader(files, source.batch_size, num_workers=source.workers):
        _raise_first(errors)
        part = encode_with_patches(source.backbone, pixels.to(source.backbone.device))
        if part[:, 0].numel() * part.element_size() * len(images) > PATCH_LIMIT:
            raise SettingsError(
                f"the patch features of {len(images)} images of '{images.name}' would take more "
                f"than {PATCH_LIMIT // 2**30} GiB; take fewer images with --limit"
            )
        parts.append(part)
        source.progress(f"{images.name}, patches", len(pixels), len(images))
    return torch.cat(parts, dim=1)


def method_features(
    source: FeatureSource, images: ImageList, kind: FeatureKind, settings: TextSpaceSettings
) -> Tensor:
    """Features of a set of images as a method takes them: (n, D), (V, n, D) or (1 + P, n, D).

    Args:
        kind: what they are of (`Method.features_of`). settings: of that method.
    """
    if kind == "views":
        return view_features(source, images, settings.views, settings.view_seed)
    if kind == "patches":
        return patch_features(source, images)
    return source.features(images)


def _raise_first(errors) -> None:
    for error in errors:
        if error:
            raise ImageError(error)

"""The ID images that a detector is fitted to: read when asked for, and told apart by digests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.digests import bytes_digest, tensor_digest, texts_digest
from openood_interneg.data.image_entries import Deferred
from openood_interneg.data.image_sources import is_path
from openood_interneg.data.images import ImageError
from openood_interneg.vlm.text_files import read_bytes


def images_digest(sources: Sequence[Any], labels: np.ndarray) -> str:
    """Digest of labelled image files, also in archives, by name, label and size; empty for images
    in memory."""
    lines = []
    for source, label in zip(sources, labels.tolist(), strict=True):
        if isinstance(source, Deferred) and source.size is not None:
            path, size = Path(source.name), source.size
        elif is_path(source):
            path = Path(source)
            size = path.stat().st_size if path.is_file() else -1
        else:
            return ""
        lines.append(f"{path.parent.name}/{path.name} {label} {size}")
    return texts_digest(lines)


def contents_digest(sources: Sequence[Any]) -> str:
    """Digest of image files, also in archives, by their bytes; empty for images in memory.

    Names and sizes do not tell images apart: all bitmaps of one shape have one size.

    Raises:
        ImageError: a file that cannot be read.
    """
    digests = []
    for source in sources:
        if isinstance(source, Deferred) and source.size is not None:
            data = source.read(source.size)
        elif is_path(source):
            data = read_bytes(Path(source), ImageError)
        else:
            return ""
        digests.append(bytes_digest(data))
    return texts_digest(digests)


class LabelledImages:
    """ID images as `IdImages`; remembers those that were read, their features and their ids.

    Attributes:
        read: places of the images that were read, in the order in which they first were.
        ids: of their pictures.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Any]], tuple[Tensor, Tensor]],
        sources: list[Any],
        labels: np.ndarray,
    ):
        self.encode, self.sources, self.labels = encode, sources, labels
        self.ids: set[int] = set()
        self._rows: dict[int, Tensor] = {}

    @property
    def read(self) -> list[int]:
        """Places of the images that were read, in the order in which they first were."""
        return list(self._rows)

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        places = indices.tolist()
        missing = [place for place in dict.fromkeys(places) if place not in self._rows]
        if missing:
            try:
                features, ids = self.encode([self.sources[place] for place in missing])
            except ImageError as error:
                raise ImageError(f"an ID image cannot be used: {error}") from error
            self._rows |= dict(zip(missing, features, strict=True))
            self.ids |= set(ids.tolist())
        return torch.stack([self._rows[place] for place in places])

    def digests(self) -> dict[str, str]:
        """Of all images by name and size, and of those that were read by content."""
        return {
            "id_images": images_digest(self.sources, self.labels),
            "proxy_images": contents_digest([self.sources[place] for place in self.read]),
        }


class LabelledFeatures:
    """ID images of which only the features are there, as `IdImages`.

    Args:
        rows: (n, D), or (V, n, D) of views or patches, of which the first is the image.
        labels: (n,) their classes.
    """

    def __init__(self, rows: Tensor, labels: np.ndarray):
        self.rows, self.labels = rows, labels
        self.ids: set[int] = set()
        self._read: dict[int, None] = {}

    @property
    def read(self) -> list[int]:
        """Places of the images that were read."""
        return list(self._read)

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        self._read |= dict.fromkeys(indices.tolist())
        return self.rows.reshape(-1, *self.rows.shape[-2:])[0][torch.from_numpy(indices)]

    def digests(self) -> dict[str, str]:
        """Of the features."""
        return {"id_images": tensor_digest(self.rows), "proxy_images": ""}

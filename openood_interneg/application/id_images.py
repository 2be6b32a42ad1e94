"""The ID images that a detector is fitted to: read when asked for, and told apart by digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openood_interneg.data.digests import bytes_digest, texts_digest
from openood_interneg.data.images import ImageError
from openood_interneg.vlm.text_files import read_bytes


def images_digest(sources: Sequence[Any], labels: np.ndarray) -> str:
    """Digest of labelled image files by name, label and size; empty for images in memory."""
    lines = []
    for source, label in zip(sources, labels.tolist(), strict=True):
        if not isinstance(source, (str, os.PathLike)):
            return ""
        path = Path(source)
        size = path.stat().st_size if path.is_file() else -1
        lines.append(f"{path.parent.name}/{path.name} {label} {size}")
    return texts_digest(lines)


def contents_digest(sources: Sequence[Any]) -> str:
    """Digest of image files by their bytes; empty for images in memory.

    Names and sizes do not tell images apart: all bitmaps of one shape have one size.

    Raises:
        ImageError: a file that cannot be read.
    """
    digests = []
    for source in sources:
        if not isinstance(source, (str, os.PathLike)):
            return ""
        data = read_bytes(Path(source), ImageError)
        digests.append(bytes_digest(data))
    return texts_digest(digests)


class LabelledImages:
    """ID images as `IdImages`; remembers those that were read, and their ids."""

    def __init__(
        self,
        encode: Callable[[Sequence[Any]], tuple[Tensor, Tensor]],
        sources: list[Any],
        labels: np.ndarray,
    ):
        self.encode, self.sources, self.labels = encode, sources, labels
        self.used: list[Any] = []
        self.ids: set[int] = set()

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        self.used = [self.sources[i] for i in indices]
        try:
            features, ids = self.encode(self.used)
        except ImageError as error:
            raise ImageError(f"an ID image cannot be used: {error}") from error
        self.ids |= set(ids.tolist())
        return features

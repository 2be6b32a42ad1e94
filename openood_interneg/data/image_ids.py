"""Ids of images: what a stream, an inversion and a corruption know an image by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor


def image_id(name: str) -> int:
    """Stable id of an image from its name, in 0 .. 2^63 - 1."""
    return _number(name.encode())


def image_ids(names: Iterable[str]) -> Tensor:
    """`image_id` of each name, (B,) int64."""
    return torch.tensor([image_id(name) for name in names], dtype=torch.int64)


def content_id(image: Image.Image) -> int:
    """Id of an RGB image from its pixels, in 0 .. 2^63 - 1.

    One picture has one id, whether it came as a file, an array or a tensor.
    """
    hasher = hashlib.blake2b(f"{image.size}".encode(), digest_size=8)
    hasher.update(image.tobytes())
    return int.from_bytes(hasher.digest(), "big") >> 1


def pixel_ids(pixels: Tensor) -> Tensor:
    """Ids (B,) int64 of images from what the model sees of them, (B, ...) of any dtype.

    For images of which nothing else is there; `content_id` does not depend on the preprocessing.
    """
    rows = pixels.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    return torch.tensor([_number(row.tobytes()) for row in rows], dtype=torch.int64)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1

"""Digests, by which files, features and streams are told apart: blake2b of 16 bytes, in hex."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def digest(value: Any) -> str:
    """Digest of a JSON-like value; the same for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return bytes_digest(text.encode())


def bytes_digest(data: bytes) -> str:
    """Digest of bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def texts_digest(texts: Iterable[str]) -> str:
    """Digest of a sequence of texts, order included."""
    hasher = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()


def extend_digest(before: str, name: str) -> str:
    """Digest of a stream's names so far, one name longer.

    Args:
        before: digest of the names so far; empty for none.
        name: the next one.
    """
    return bytes_digest(before.encode() + name.encode("utf-8", "surrogateescape"))


def tensor_digest(tensor: Tensor) -> str:
    """Digest of a tensor's shape and values."""
    hasher = hashlib.blake2b(f"{tuple(tensor.shape)}".encode(), digest_size=16)
    hasher.update(_values(tensor))
    return hasher.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of named tensors: names, dtypes, shapes and values."""
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(_values(tensor))
    return hasher.hexdigest()


def _values(tensor: Tensor) -> memoryview:
    if not tensor.numel():  # counts as contiguous whatever its strides, which `view` refuses
        return memoryview(b"")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

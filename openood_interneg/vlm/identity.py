"""What makes two models the same: a digest over everything that changes a feature."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Texts on which tokenizers differ: case, accents, digits, markup, spaces, nothing, more than fits.
_PROBES = ("a photo of a cat.", "Élan VITAL №42", "don't &amp; <b>x</b>  y_z", "", "$ " * 99)
# Of training only, or of how the result is handed over.
_WITHOUT_EFFECT = {"training", "grad_checkpointing", "preprocess_cfg", "output_dict"}


@torch.no_grad()
def model_digest(model: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor]) -> str:
    """Hex digest of weights, architecture and tokenizer: the model's part of every cache key.

    The architecture is read from the model object, however it was built: of every submodule
    its class and all its plain attributes (number of heads, activation, stride, epsilon, pooling,
    context length, image size, end-of-text rule, ...), and all parameters and buffers, those that
    no checkpoint holds (attention masks) included. The tokenizer is taken by what it does to a
    few texts. Not in it, as keys have them of their own: preprocessing and precision.
    """
    hasher = hashlib.blake2b(b"model 2", digest_size=16)
    for name, module in model.named_modules():
        hasher.update(repr((name, _plain(module))).encode())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(_bytes(tensor))
    tokens = tokenizer(list(_PROBES))
    hasher.update(repr((tuple(tokens.shape), tokens.tolist())).encode())
    return hasher.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor as they lie in memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as text, numbers and tuples; objects by class and attributes, functions by name."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, (torch.dtype, torch.Size)):
        return str(value)
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), repr(_plain(v, depth))) for key, v in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(part, depth) for part in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(repr(_plain(part, depth)) for part in value))
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return ("partial", *(_plain(part, depth) for part in parts))
    if isinstance(value, Tensor):  # of a tensor that is no buffer
        digest = hashlib.blake2b(_bytes(value)).hexdigest()
        return (str(value.dtype), tuple(value.shape), digest)
    if hasattr(value, "__qualname__"):  # a class, a function, a method
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth > 3:
        return kind
    # Underscores mark what a library keeps for itself; it differs from version to version.
    own = {
        key: _plain(part, depth + 1)
        for key, part in getattr(value, "__dict__", {}).items()
        if not key.startswith("_") and key not in _WITHOUT_EFFECT and not _is_part(value, part)
    }
    return (kind, tuple(sorted((key, repr(part)) for key, part in own.items())))


def _is_part(owner: Any, value: Any) -> bool:
    """Whether an attribute of a module is another module, which is walked by its own name."""
    return isinstance(owner, nn.Module) and isinstance(value, nn.Module)

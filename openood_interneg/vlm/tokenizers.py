"""Checks that a tokenizer is the model's own: a wrong one gives wrong features without an error."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from openood_interneg.settings import InternegError, first_line
from openood_interneg.vlm.tower_weights import text_module

Tokenizer = Callable[[Sequence[str]], Tensor]

CLIP_VOCABULARY = 49408
_CLIP_EOT = 49407


class TokenizerError(InternegError, ValueError):
    """A tokenizer that is not the one that the model was trained with."""


def token_embedding(model: nn.Module) -> nn.Embedding | None:
    """The module that turns token ids into vectors, or None."""
    embeddings = [m for m in text_module(model).modules() if isinstance(m, nn.Embedding)]
    return max(embeddings, key=lambda m: m.num_embeddings, default=None)


def context_length(model: nn.Module) -> int | None:
    """Number of token positions, or None where the model does not say."""
    text = text_module(model)
    for owner in (text, model):
        positions = getattr(owner, "positional_embedding", None)
        if isinstance(positions, Tensor):
            # CoCa keeps one position for its class token.
            return positions.shape[-2] - (getattr(text, "cls_emb", None) is not None)
    for owner in (model, text):
        length = getattr(owner, "context_length", None)
        if isinstance(length, int):
            return length
    return None


@functools.cache
def byte_pairs(length: int = 77) -> Tokenizer:
    """CLIP's byte-pair encoding at a context length; its table is unpacked once a process."""
    tokenizer = import_module("open_clip.tokenizer")
    # open_clip makes one when it is imported; a second would unpack the table again.
    own = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(own, tokenizer.SimpleTokenizer):
        return tokenizer.SimpleTokenizer(context_length=length)
    found = copy.copy(own)
    found.context_length = length
    return found


def clip_tokenizer(model: nn.Module, name: str) -> Tokenizer:
    """CLIP's byte-pair encoding at the model's context length.

    Raises:
        TokenizerError: the model's vocabulary, context or end-of-text rule is another.
    """
    remedy = "pass the model's own: load_backbone(model, tokenizer=...)"
    embedding, length = token_embedding(model), context_length(model)
    if embedding is None or length is None:
        raise TokenizerError(
            f"{name}: it cannot be told which tokenizer the model was trained with; {remedy}"
        )
    if embedding.num_embeddings != CLIP_VOCABULARY:
        raise TokenizerError(
            f"{name} has a vocabulary of {embedding.num_embeddings} tokens and CLIP's has "
            f"{CLIP_VOCABULARY}, so CLIP's tokenizer is not the model's; {remedy}"
        )
    text = text_module(model)
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    eos = getattr(text, "text_eos_id", getattr(text, "eos_id", _CLIP_EOT))
    if pool == "eos" and eos != _CLIP_EOT:
        raise TokenizerError(
            f"{name} reads the text at token {eos} and CLIP's end of text is {_CLIP_EOT}, so "
            f"CLIP's tokenizer is not the model's; {remedy}"
        )
    return byte_pairs(length)


def checked_tokenizer(tokenizer: Tokenizer, model: nn.Module, name: str) -> Tokenizer:
    """The tokenizer, once it was seen to give what the model takes.

    Raises:
        TokenizerError: other things than (n, context) whole numbers, ids outside of the model's
            vocabulary, more positions than the model has.
    """
    try:
        tokens = tokenizer(["a photo of a cat", "x " * 99])
    except Exception as error:  # anybody's function
        raise TokenizerError(
            f"the tokenizer of {name} fails on a list of texts: {first_line(error)}"
        ) from error
    whole = isinstance(tokens, Tensor) and not tokens.is_floating_point() and tokens.dim() == 2
    if not whole or len(tokens) != 2 or tokens.dtype == torch.bool:
        raise TokenizerError(
            f"the tokenizer of {name} returns {_described(tokens)}; it must make an int64 tensor "
            "(n, context) of n texts, padded and cut to the context length"
        )
    embedding, length = token_embedding(model), context_length(model)
    if embedding is not None and not 0 <= int(tokens.min()) <= int(tokens.max()) < (
        embedding.num_embeddings
    ):
        raise TokenizerError(
            f"the tokenizer of {name} gives token ids up to {int(tokens.max())} and the model's "
            f"vocabulary has {embedding.num_embeddings}: it is another model's"
        )
    if length is not None and tokens.shape[1] > length:
        raise TokenizerError(
            f"the tokenizer of {name} gives {tokens.shape[1]} positions and the model has "
            f"{length}; set its context length"
        )
    return tokenizer


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"

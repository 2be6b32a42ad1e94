"""CLIP's text tower, computed only where the result depends on it.

The text tower of CLIP is causal and only its end-of-text position is read. So

* positions after the end-of-text token are never computed (truncation);
* the positions before the first one that varies are computed once, and their keys and values
  are kept per layer (prefix cache);
* in the last layer only the end-of-text position asks a query;
* the weights are frozen, so the backward pass is written out for the positions alone
  (`pseudo_backward`).

All of it is exact: the numbers are those of the full 77 positions up to rounding. Towers that
are not causal or pool elsewhere (SigLIP, CoCa, Hugging Face towers) run at full length through
the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.vlm.tower_weights import (
    Block,
    causal_bias,
    norm_weights,
    projection_weights,
    read_block,
)

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each (n, heads, P, head_dim)


class CausalTextTower:
    """Truncated, prefix-cached forward over the weights of a causal end-of-text tower.

    Args:
        source: the module that holds `token_embedding`, `positional_embedding`, `transformer`,
            `ln_final` and `text_projection` (open_clip's CLIP or TextTransformer, OpenAI's CLIP).
        eot: token ids (B, context) int64 -> index of the end-of-text token, (B,) int64.
        dtype: dtype of the matrix products; tokens, residuals and norms stay float32.
    """

    exact_truncation = True

    def __init__(self, source: Any, eot: Callable[[Tensor], Tensor], dtype: torch.dtype):
        self.eot = eot
        self.dtype = dtype
        self.token_embedding: Tensor = source.token_embedding.weight.detach()
        self.positional_embedding: Tensor = source.positional_embedding.detach().float()
        self.width = self.positional_embedding.shape[1]
        self.device = self.positional_embedding.device
        self.blocks = [read_block(block, dtype) for block in source.transformer.resblocks]
        self.ln_final = norm_weights(source.ln_final)
        projection = source.text_projection
        self.projection = None if projection is None else projection_weights(projection)

    # ---- whole prompts -------------------------------------------------------------------

    def encode(self, tokens: Tensor) -> Tensor:
        """Text features of tokenised prompts, float32 unit rows (B, D).

        Args:
            tokens: (B, context) int64. Prompts of similar length cost least.
        """
        tokens = tokens.to(self.device)
        eot = self.eot(tokens)
        length = int(eot.max()) + 1
        shared = _common_prefix(tokens[:, :length], int(eot.min()))
        prefix = self.cache(tokens[:1, :shared]) if shared else None
        x = self._embed(tokens[:, shared:length], shared)
        return self._forward(x, eot - shared, prefix)

    def cache(self, tokens: Tensor) -> Cache:
        """Keys and values of every layer at the given positions, counted from the start.

        Args:
            tokens: (n, P) int64.
        """
        x = self._embed(tokens, 0)
        length = x.shape[1]
        bias = causal_bias(length, 0, x.device)
        cache = []
        for number, block in enumerate(self.blocks):
            q, k, v = self._heads(block, F.linear(self._norm_1(block, x), *block.qkv))
            cache.append((k, v))
            if number + 1 < len(self.blocks):
                x = self._finish(block, x, self._attend(q, k, v, bias))
        return cache

    # ---- layers --------------------------------------------------------------------------

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        position = self.positional_embedding[start : start + tokens.shape[1]]
        return self.token_embedding[tokens].float() + position

    def _forward(self, x: Tensor, eot: Tensor, prefix: Cache | None) -> Tensor:
        """Unit features (B, D) of the positions after the prefix.

        Args:
            x: (B, L, width) float32 embeddings, positions added.
            eot: (B,) index of the end-of-text token within L.
            prefix: keys and values before x, with 1 row; None for nothing.
        """
        batch, length = x.shape[:2]
        past = 0 if prefix is None else prefix[0][0].shape[2]
        bias = causal_bias(length, past, x.device)  # (1, 1, L, P + L)
        rows = torch.arange(batch, device=x.device)
        for number, block in enumerate(self.blocks):
            y = self._norm_1(block, x)
            if number + 1 < len(self.blocks):
                q, k, v = self._heads(block, F.linear(y, *block.qkv))
            else:  # the other positions are not read any more
                weight, offset = block.qkv
                kv = F.linear(y, weight[self.width :], offset[self.width :])
                k, v = self._heads(block, kv)
                x, y = x[rows, eot][:, None], y[rows, eot][:, None]
                q = self._heads(block, F.linear(y, weight[: self.width], offset[: self.width]))[0]
                bias = bias[0, 0][eot][:, None, None]  # (B, 1, 1, P + L)
            if prefix is not None:
                k = torch.cat([prefix[number][0].expand(batch, -1, -1, -1), k], dim=2)
                v = torch.cat([prefix[number][1].expand(batch, -1, -1, -1), v], dim=2)
            x = self._finish(block, x, self._attend(q, k, v, bias))
        x = F.layer_norm(x[:, 0], (self.width,), *self.ln_final)
        if self.projection is not None:
            x = F.linear(x, *self.projection)
        return F.normalize(x, dim=-1)

    def _norm_1(self, block: Block, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), *block.ln_1).to(self.dtype)

    def _heads(self, block: Block, y: Tensor) -> Tensor:
        """(B, L, k width) -> k tensors (B, heads, L, head_dim), stacked."""
        head_dim = self.width // block.heads
        return y.unflatten(-1, (-1, block.heads, head_dim)).permute(2, 0, 3, 1, 4)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        return y.transpose(1, 2).flatten(2)  # (B, L, width)

    def _finish(self, block: Block, x: Tensor, attended: Tensor) -> Tensor:
        x = x + F.linear(attended, *block.out)
        y = F.layer_norm(x, (self.width,), *block.ln_2).to(self.dtype)
        return x + F.linear(block.activation.forward(F.linear(y, *block.fc)), *block.proj)


class FullLengthTextTower:
    """Any other tower, through the model's own `encode_text` over all positions.

    Args:
        encode_text: (B, context) int64 -> (B, D) raw features, differentiable.
        embedding: the model's token embedding module (its output is where pseudo-tokens go in).
    """

    exact_truncation = False

    def __init__(self, encode_text: Callable[[Tensor], Tensor], embedding: nn.Embedding):
        self.encode_text = encode_text
        self.embedding = embedding
        self.width = embedding.weight.shape[1]
        self.device = embedding.weight.device

    def encode(self, tokens: Tensor) -> Tensor:
        """Text features of tokenised prompts, float32 unit rows (B, D)."""
        return F.normalize(self.encode_text(tokens.to(self.device)).float(), dim=-1)


def _common_prefix(tokens: Tensor, limit: int) -> int:
    """Number of leading positions, at most `limit`, at which all rows hold the same token."""
    same = (tokens[:, :limit] == tokens[:1, :limit]).all(dim=0)
    different = (~same).nonzero()
    return int(different[0]) if len(different) else limit

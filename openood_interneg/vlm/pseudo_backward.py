"""Forward pass and hand-written backward pass from pseudo-tokens to a text feature.

The weights are frozen, so the gradient of the positions alone is needed; what autograd would
record and launch per layer is about three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from openood_interneg.vlm.text_tower import CausalTextTower


@dataclass(frozen=True)
class Layout:
    """How a batch of B prompts of different lengths is laid out.

    Linear layers and norms see the N positions that exist, one after the other; attention sees
    (B, L) with empty places, which no query that is read ever looks at.

    Attributes:
        index: (B,) template of each image, on the tower's device.
        length: L, positions of the longest prompt from its first pseudo-token on.
        depth: P, positions of the longest prefix.
        total: N, positions from the pseudo-tokens on, of all prompts together.
        slots: (N,) place of each position in B x L; None where all prompts are equally long.
        first: (B, T) rows of the pseudo-tokens among the N positions.
        last: (B,) rows of the end-of-text tokens among them.
        eot: (B,) their place within L.
        bias: (B or 1, 1, L, P + L) attention mask, additive.
        last_bias: (B or 1, 1, 1, P + L), its rows at the end of text.
    """

    index: Tensor
    length: int
    depth: int
    total: int
    slots: Tensor | None
    first: Tensor
    last: Tensor
    eot: Tensor
    bias: Tensor
    last_bias: Tensor


class PreparedPrompts(Protocol):
    """What the two passes read of `pseudo_prompts.PseudoPrompts`; n templates.

    Attributes:
        tower: the text tower.
        width: of its residual stream.
        num_tokens: T.
        prefix: per layer (n, P, 2, heads, head_dim) float32, keys and values before the hole.
        suffix: (n, L, width) embeddings from the hole on.
        hole: (n, T, width) positional embeddings of the hole.
        first_qkv: (n, L, 3 width) float32, what the first layer makes of the suffix.
    """

    tower: CausalTextTower
    width: int
    num_tokens: int
    prefix: Sequence[Tensor]
    suffix: Tensor
    hole: Tensor
    first_qkv: Tensor


class Embed(torch.autograd.Function):
    """Unit text features of prompts filled with pseudo-tokens, differentiable in these.

    Shapes: B images, N positions in all, L positions of the longest prompt, S = P + L keys.
    """

    @staticmethod
    def forward(ctx: Any, pseudo: Tensor, prompts: PreparedPrompts, plan: Layout) -> Tensor:
        tower, width, count = prompts.tower, prompts.width, prompts.num_tokens
        batch, length = len(plan.index), plan.length
        keep = ctx.needs_input_grad[0]
        tape = []

        def of_templates(table: Tensor) -> Tensor:  # (n, ...) -> (B, ...), never a view
            if len(table) > 1:
                return table.index_select(0, plan.index)
            return table.expand(batch, *table.shape[1:]).clone()

        v = pseudo + prompts.hole[plan.index]  # (B, T, width)
        x = of_templates(prompts.suffix[:, :length])
        x[:, :count] = v
        x = x.view(-1, width) if plan.slots is None else x.view(-1, width)[plan.slots]  # (N, width)
        for number, block in enumerate(tower.blocks):
            first, last = number == 0, number + 1 == len(tower.blocks)
            weight, offset = block.qkv
            # Queries, keys and values. The first layer knows all but the pseudo-tokens' already;
            # in the last one only the end of text asks.
            before = v.reshape(-1, width) if first else x
            y, mean_1, rstd_1 = _layer_norm(before, block.ln_1)
            y = y.to(tower.dtype)
            if first:
                qkv = of_templates(prompts.first_qkv[:, :length])
                qkv[:, :count] = F.linear(y, weight, offset).view(batch, count, -1)
                q, kv = qkv[..., :width], qkv[..., width:]
                if last:
                    q = q[torch.arange(batch, device=q.device), plan.eot][:, None]
            elif last:
                kv = _spread(F.linear(y, weight[width:], offset[width:]), plan)
                q = F.linear(y[plan.last], weight[:width], offset[:width])[:, None].float()
            else:
                qkv = _spread(F.linear(y, weight, offset), plan)
                q, kv = qkv[..., :width], qkv[..., width:]
            # Attention, float32: q (B, heads, L or 1, head_dim); k, v (B, heads, S, head_dim)
            heads = (block.heads, width // block.heads)
            past = prompts.prefix[number][:, : plan.depth]
            if len(past) > 1:
                past = past.index_select(0, plan.index)
            past = past.expand(batch, -1, -1, -1, -1)
            kv = torch.cat([past, kv.unflatten(-1, (2, *heads))], dim=1)
            q = q.unflatten(-1, heads).transpose(1, 2).contiguous()
            k, value = (part.transpose(1, 2).contiguous() for part in kv.unbind(2))
            scores = (q @ k.transpose(-1, -2)).add_(plan.last_bias if last else plan.bias)
            p = scores.softmax(dim=-1)
            attended = _collect((p @ value).transpose(1, 2).flatten(2), plan)
            # The rest of the block
            if last:
                x = x[plan.last]  # (B, width) from here on
            x = x + F.linear(attended.to(tower.dtype), *block.out)
            y, mean_2, rstd_2 = _layer_norm(x, block.ln_2)
            u = F.linear(y.to(tower.dtype), *block.fc)
            if keep:
                tape.append((before, mean_1, rstd_1, q, k, value, p, x, mean_2, rstd_2, u))
            x = x + F.linear(block.activation.forward(u), *block.proj)
        y, mean, rstd = _layer_norm(x, tower.ln_final)
        if tower.projection is not None:
            y = F.linear(y, *tower.projection)
        norm = y.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        features = y / norm
        if keep:
            ctx.rest = prompts, plan, tape, (x, mean, rstd), features, norm
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        prompts, plan, tape, (x, mean, rstd), features, norm = ctx.rest
        tower, width, count = prompts.tower, prompts.width, prompts.num_tokens
        batch, length = len(plan.index), plan.length
        grad = (grad - features * (features * grad).sum(dim=-1, keepdim=True)) / norm
        if tower.projection is not None:
            grad = grad @ tower.projection[0]
        dx = _layer_norm_backward(grad, x, mean, rstd, tower.ln_final)  # (B, width)
        for number in reversed(range(len(tower.blocks))):
            first, last = number == 0, number + 1 == len(tower.blocks)
            block = tower.blocks[number]
            before, mean_1, rstd_1, q, k, value, p, x, mean_2, rstd_2, u = tape.pop()
            # MLP and output projection
            du = block.activation.backward(dx.to(tower.dtype) @ block.proj[0], u)
            dy = (du @ block.fc[0]).float()
            dx = dx + _layer_norm_backward(dy, x, mean_2, rstd_2, block.ln_2)
            da = (dx.to(tower.dtype) @ block.out[0]).float()
            # Attention
            da = da[:, None] if last else _spread(da, plan)
            da = da.unflatten(-1, (block.heads, -1)).transpose(1, 2)  # as q
            dp = da @ value.transpose(-1, -2)
            ds = torch._softmax_backward_data(dp, p, -1, dp.dtype)
            new = slice(plan.depth, None)  # the prefix is constant
            dqkv = da.new_empty(batch, length, 3, block.heads, width // block.heads)
            dqkv[:, :, 1] = (ds[..., new].transpose(-1, -2) @ q).transpose(1, 2)
            dqkv[:, :, 2] = (p[..., new].transpose(-1, -2) @ da).transpose(1, 2)
            dq = (ds @ k).transpose(1, 2)
            weight = block.qkv[0]
            if last:
                at_end, dx = dx, dx.new_zeros(plan.total, width)  # (N, width) from here on
                dx[plan.last] = at_end
                dqkv[:, :, 0] = 0
            else:
                dqkv[:, :, 0] = dq
            if first:  # of the first layer's input only the pseudo-tokens vary
                dy = dqkv[:, :count].reshape(batch * count, -1).to(tower.dtype) @ weight
                dv = _layer_norm_backward(dy.float(), before, mean_1, rstd_1, block.ln_1)
                return dx[plan.first] + dv.view(batch, count, width), None, None
            if last:
                dkv = _collect(dqkv[:, :, 1:].flatten(2), plan).to(tower.dtype)
                dy = (dkv @ weight[width:]).float()
                dy[plan.last] += (dq.flatten(1).to(tower.dtype) @ weight[:width]).float()
            else:
                dy = (_collect(dqkv.flatten(2), plan).to(tower.dtype) @ weight).float()
            dx = dx + _layer_norm_backward(dy, before, mean_1, rstd_1, block.ln_1)
        raise AssertionError("a tower without layers")


def _spread(rows: Tensor, plan: Layout) -> Tensor:
    """(N, k) positions -> (B, L, k) float32, zero where a prompt has no position."""
    rows = rows.float()
    if plan.slots is not None:
        empty = rows.new_zeros(len(plan.index) * plan.length, rows.shape[1])
        rows = empty.index_copy_(0, plan.slots, rows)
    return rows.view(len(plan.index), plan.length, -1)


def _collect(places: Tensor, plan: Layout) -> Tensor:
    """(B, L, k) -> (N, k), the inverse of `_spread`; (B, 1, k) -> (B, k)."""
    rows = places.flatten(0, 1)
    if plan.slots is None or places.shape[1] != plan.length:
        return rows
    return rows.index_select(0, plan.slots)


def _layer_norm(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, x.shape[-1:], *norm)  # y, mean, 1 / deviation


def _layer_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: tuple[Tensor, Tensor, float]
) -> Tensor:
    weight, offset, _ = norm
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), x, x.shape[-1:], mean, rstd, weight, offset, wanted
    )[0]

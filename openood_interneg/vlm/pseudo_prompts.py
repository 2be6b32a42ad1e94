"""Prompt templates with a hole for pseudo-tokens: the way there and, written out, the way back.

Everything before the hole is computed once. See `text_tower` for why this is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from openood_interneg.settings import InternegError
from openood_interneg.vlm.tower_weights import causal_bias

if TYPE_CHECKING:
    from openood_interneg.vlm.text_tower import CausalTextTower

PLACEHOLDER = "$"


class TextTowerError(InternegError, ValueError):
    """A prompt that cannot hold the pseudo-tokens."""


@dataclass(frozen=True)
class _Plan:
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


class PseudoPrompts:
    """Templates with a hole for T pseudo-tokens; everything before the hole is cached.

    Prompts are laid out as [prefix | pseudo-tokens, rest, end of text]. `embed` is the only
    thing that an inversion calls; it is differentiable in the pseudo-tokens.

    Kept per template: keys and values of the prefix in every layer, and what the first layer
    makes of the rest of the prompt. The weights are read once per call, whatever the lengths.
    """

    def __init__(self, tower: CausalTextTower, tokens: Tensor, num_tokens: int, placeholder: int):
        self.tower = tower
        self.num_tokens = num_tokens
        self.width = tower.width
        start = placeholder_start(tokens, num_tokens, placeholder)  # (n,)
        eot = tower.eot(tokens) - start
        self.length = (eot + 1).cpu()  # layouts are planned on the CPU: no waiting for a GPU
        self.start = start.cpu()
        length, depth = int(self.length.max()), int(self.start.max())
        device = tokens.device
        with torch.no_grad():
            if depth:
                cache = tower.cache(tokens[:, :depth])
                # per layer (n, P, 2, heads, head_dim) float32: keys and values
                self.prefix = [
                    torch.stack([k.transpose(1, 2), v.transpose(1, 2)], dim=2).float()
                    for k, v in cache
                ]
            else:
                heads = [block.heads for block in tower.blocks]
                shapes = [(len(tokens), 0, 2, h, tower.width // h) for h in heads]
                self.prefix = [torch.zeros(shape, device=device) for shape in shapes]
            hidden = torch.arange(depth, device=device)[None] >= start[:, None]  # (n, P)
            self.ragged = bool(hidden.any())
            self.prefix_bias = torch.zeros(hidden.shape, device=device).masked_fill(
                hidden, float("-inf")
            )
            self.causal_bias = causal_bias(length, 0, device)[0, 0]  # (L, L)
            # Columns past the end of a short prompt repeat its last position: never read.
            at = start[:, None] + torch.arange(length, device=device)
            at = at.clamp(max=tokens.shape[1] - 1)
            position = tower.positional_embedding[at]  # (n, L, width)
            self.suffix = tower.token_embedding[tokens.gather(1, at)].float() + position
            self.hole = position[:, :num_tokens]  # (n, T, width)
            first = tower.blocks[0]
            self.first_qkv = F.linear(tower._norm_1(first, self.suffix), *first.qkv).float()

    @property
    def bytes_per_image(self) -> int:
        """Memory that one image takes while it is inverted, at most."""
        length, depth = int(self.length.max()), int(self.start.max())
        size = self.tower.dtype.itemsize
        position = self.width * (4 * 4 + 6 * size)  # kept for the way back: x, x', queries, MLP
        attention = 2 * 4 * self.width * (length + depth)  # keys and values
        working = length * self.width * (12 * size + 24)  # of one layer
        return len(self.tower.blocks) * (length * position + attention) + working

    def embed(self, index: Tensor, pseudo: Tensor) -> Tensor:
        """Unit text features (B, D) of templates `index` filled with `pseudo`.

        Args:
            index: (B,) int64, which template each row uses; best on the CPU, where a GPU need
                not be waited for.
            pseudo: (B, T, width) float32 pseudo-tokens.
        """
        return _Embed.apply(pseudo, self, self._plan(index.cpu()))

    def _plan(self, index: Tensor) -> _Plan:
        device = self.suffix.device
        lengths = self.length[index]
        length, depth = int(lengths.max()), int(self.start[index].max())
        begin = lengths.cumsum(0) - lengths
        slots = None
        if int(lengths.min()) < length:
            filled = torch.arange(length) < lengths[:, None]
            slots = filled.flatten().nonzero()[:, 0].to(device)
        eot = (lengths - 1).to(device)
        at = index.to(device)
        past = self.prefix_bias[at] if self.ragged else self.prefix_bias[:1]
        past = past[:, None, None, :depth]  # (B or 1, 1, 1, P)
        causal = self.causal_bias[:length, :length]
        if slots is None:
            last = causal[None, None, -1:]
        else:
            last = causal[eot][:, None, None]
        return _Plan(
            index=at,
            length=length,
            depth=depth,
            total=int(lengths.sum()),
            slots=slots,
            first=(begin[:, None] + torch.arange(self.num_tokens)).to(device),
            last=(begin + lengths - 1).to(device),
            eot=eot,
            bias=_side_by_side(past, causal[None, None]),
            last_bias=_side_by_side(past, last),
        )


class _Embed(torch.autograd.Function):
    """`PseudoPrompts.embed` with its backward written out.

    The weights are frozen, so the way back needs the gradient of the positions alone; what
    autograd would record and launch per layer is about three times as much.

    Shapes: B images, N positions in all, L positions of the longest prompt, S = P + L keys.
    """

    @staticmethod
    def forward(ctx, pseudo: Tensor, prompts: PseudoPrompts, plan: _Plan) -> Tensor:
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
    def backward(ctx, grad: Tensor):
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


def _spread(rows: Tensor, plan: _Plan) -> Tensor:
    """(N, k) positions -> (B, L, k) float32, zero where a prompt has no position."""
    rows = rows.float()
    if plan.slots is not None:
        empty = rows.new_zeros(len(plan.index) * plan.length, rows.shape[1])
        rows = empty.index_copy_(0, plan.slots, rows)
    return rows.view(len(plan.index), plan.length, -1)


def _collect(places: Tensor, plan: _Plan) -> Tensor:
    """(B, L, k) -> (N, k), the inverse of `_spread`; (B, 1, k) -> (B, k)."""
    rows = places.flatten(0, 1)
    whole = plan.slots is None or places.shape[1] != plan.length
    return rows if whole else rows.index_select(0, plan.slots)


def _layer_norm(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, x.shape[-1:], *norm)  # y, mean, 1 / deviation


def _layer_norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm) -> Tensor:
    weight, offset, _ = norm
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), x, x.shape[-1:], mean, rstd, weight, offset, wanted
    )[0]


def _side_by_side(past: Tensor, own: Tensor) -> Tensor:
    """Masks (b, 1, 1, P) and (c, 1, l, L), b and c 1 or B -> (1 or B, 1, l, P + L)."""
    rows = max(len(past), len(own))
    past = past.expand(rows, -1, own.shape[2], -1)
    return torch.cat([past, own.expand(rows, -1, -1, -1)], dim=-1)


def placeholder_start(tokens: Tensor, num_tokens: int, placeholder: int) -> Tensor:
    """Position of the first placeholder in each row, (n,) int64.

    Raises:
        TextTowerError: where a row does not hold exactly T consecutive placeholders (a template
            that is too long for the context, or that contains the placeholder itself).
    """
    here = tokens == placeholder
    start = here.int().argmax(dim=1)
    wanted = start[:, None] + torch.arange(num_tokens, device=tokens.device)
    good = (here.sum(1) == num_tokens) & here.gather(1, wanted.clamp(max=tokens.shape[1] - 1)).all(
        1
    )
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise TextTowerError(
            f"template number {row} does not hold {num_tokens} pseudo-token(s) in a row: it is "
            f"longer than the text tower's {tokens.shape[1]} positions, or contains "
            f"'{PLACEHOLDER}'; shorten it or take that character out"
        )
    return start

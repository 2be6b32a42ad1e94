"""Reads a text tower's weights; checks that the shortcuts of `text_tower` are exact for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its backward, each one kernel where there is one.

    Attributes:
        forward: u -> a.
        backward: (da, u) -> du.
        scale: the activation is forward(scale x) / scale; the linear layers around take it in.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0


@dataclass(frozen=True)
class Block:
    """Weights of one residual attention block, linear ones in the compute dtype.

    The attention's 1 / sqrt(head size) is in the rows of `qkv` that make queries.
    """

    heads: int
    ln_1: tuple[Tensor, Tensor, float]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor, float]
    fc: tuple[Tensor, Tensor]
    activation: Activation
    proj: tuple[Tensor, Tensor]


def text_module(model: nn.Module) -> nn.Module:
    """Where a model keeps its text tower: in `text`, or among its own attributes."""
    text = getattr(model, "text", model)
    return text if isinstance(text, nn.Module) else model


def causal_source(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
    """The module with the text weights and its end-of-text rule, or None.

    None means that the tower is not known to be causal, to read the end-of-text position or to
    consist of plain CLIP blocks: then only full-length encoding is safe.
    """
    source = text_module(model)
    for name in ("token_embedding", "positional_embedding", "transformer", "ln_final"):
        if not hasattr(source, name):
            return None
    if getattr(source, "cls_emb", None) is not None:
        return None
    pool = getattr(source, "text_pool_type", getattr(source, "pool_type", "argmax"))
    if pool == "argmax":
        eot = _argmax_eot
    elif pool == "eos":
        eos_id = getattr(source, "text_eos_id", getattr(source, "eos_id", None))
        if eos_id is None:
            return None
        eot = _EosPosition(eos_id)
    else:
        return None
    blocks = getattr(source.transformer, "resblocks", None)
    if blocks is None or not all(_is_plain_block(block) for block in blocks):
        return None
    return (source, eot) if _is_causal(source, blocks) else None


def _argmax_eot(tokens: Tensor) -> Tensor:
    # In CLIP's vocabulary the end-of-text token has the highest id.
    return tokens.argmax(dim=-1)


@dataclass(frozen=True)
class _EosPosition:
    eos_id: int

    def __call__(self, tokens: Tensor) -> Tensor:
        return (tokens == self.eos_id).int().argmax(dim=-1)


def _is_causal(source: nn.Module, blocks: Sequence[nn.Module]) -> bool:
    # open_clip keeps the mask on the tower, OpenAI's package on every block.
    mask = getattr(source, "attn_mask", None)
    if mask is None:
        mask = getattr(blocks[0], "attn_mask", None)
    if not isinstance(mask, Tensor):
        return False
    size = mask.shape[-1]
    upper = torch.ones(size, size, dtype=torch.bool, device=mask.device).triu(1)
    blocked = mask if mask.dtype == torch.bool else torch.isneginf(mask)
    return mask.dim() == 2 and bool((blocked == upper).all())


def _is_plain_block(block: Any) -> bool:
    children = {name for name, _ in block.named_children()}
    if (
        not {"ln_1", "attn", "ln_2", "mlp"}
        <= children
        <= {*("ln_1", "attn", "ln_2", "mlp", "ls_1", "ls_2")}
    ):
        return False
    attn, mlp = block.attn, block.mlp
    return (
        type(attn) is nn.MultiheadAttention
        and attn.in_proj_weight is not None
        and attn.in_proj_bias is not None
        and attn.bias_k is None
        and [name for name, _ in mlp.named_children()] == ["c_fc", "gelu", "c_proj"]
        and all(type(part) is nn.Linear for part in (mlp.c_fc, mlp.c_proj))
        and isinstance(block.ln_1, nn.LayerNorm)
        and isinstance(block.ln_2, nn.LayerNorm)
    )


def read_block(block: Any, dtype: torch.dtype) -> Block:
    """Weights of a block that `causal_source` has accepted."""

    def linear(weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight, bias = weight.detach().float(), bias.detach().float()
        if scale is not None:  # a layer scale folds into the linear layer before it
            weight, bias = weight * scale[:, None], bias * scale
        return weight.to(dtype).contiguous(), bias.to(dtype)

    def gamma(name: str) -> Tensor | None:
        scale = getattr(getattr(block, name, None), "gamma", None)
        return None if scale is None else scale.detach().float()

    attn, mlp = block.attn, block.mlp
    activation = _read_activation(mlp.gelu, attn.in_proj_weight.device)
    width = attn.in_proj_weight.shape[1]
    query = torch.ones(3 * width, device=attn.in_proj_weight.device)
    query[:width] = (width // attn.num_heads) ** -0.5
    fc, proj = mlp.c_fc, mlp.c_proj
    return Block(
        heads=attn.num_heads,
        ln_1=norm_weights(block.ln_1),
        qkv=linear(attn.in_proj_weight, attn.in_proj_bias, query),
        out=linear(attn.out_proj.weight, attn.out_proj.bias, gamma("ls_1")),
        ln_2=norm_weights(block.ln_2),
        fc=linear(fc.weight * activation.scale, fc.bias * activation.scale),
        activation=activation,
        proj=linear(proj.weight / activation.scale, proj.bias, gamma("ls_2")),
    )


def _read_activation(module: nn.Module, device: torch.device) -> Activation:
    """QuickGELU x sigmoid(1.702 x) is SiLU of a scaled input; others run as they are."""
    if type(module) is nn.GELU:
        how = {"approximate": module.approximate}
        return Activation(module, lambda da, u: torch.ops.aten.gelu_backward(da, u, **how))
    x = torch.linspace(-8, 8, 65, device=device)
    with torch.no_grad():
        if torch.allclose(module(x), x * torch.sigmoid(1.702 * x), atol=1e-6):
            return Activation(F.silu, torch.ops.aten.silu_backward, scale=1.702)

    def backward(da: Tensor, u: Tensor) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_(True)
            return torch.autograd.grad(module(u), u, da)[0]

    return Activation(module, backward)


def norm_weights(module: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return module.weight.detach().float(), module.bias.detach().float(), module.eps


def projection_weights(projection: nn.Linear | Tensor) -> tuple[Tensor, Tensor | None]:
    if isinstance(projection, nn.Linear):
        bias = None if projection.bias is None else projection.bias.detach().float()
        return projection.weight.detach().float(), bias
    return projection.detach().float().t().contiguous(), None


def causal_bias(length: int, past: int, device: torch.device) -> Tensor:
    """Additive mask (1, 1, L, P + L): a position sees the prefix, itself and what is before."""
    blocked = torch.ones(length, past + length, dtype=torch.bool, device=device).triu(past + 1)
    return torch.zeros(1, 1, length, past + length, device=device).masked_fill(
        blocked, float("-inf")
    )

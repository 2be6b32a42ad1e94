"""Projected features of an image's patches, for methods that look at regions (GL-MCM).

The image tower of CLIP's ViT projects its class token alone. Patch tokens can be projected by the
same weights: the last block is run without its attention pattern, each patch seeing its own value
vector, v = x + out(value(ln_1 x)), then the block's MLP, the final norm and the projection. GL-MCM,
LoCoOp and Local-Prompt use this; it keeps patches local and comparable with texts. A hook on the
last block reads its input, so the tower itself runs once and unchanged, in any precision.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.settings import InternegError
from openood_interneg.vlm.backbones import Backbone


class PatchError(InternegError, ValueError):
    """An image tower without patch tokens that can be projected."""


@torch.no_grad()
def encode_with_patches(backbone: Backbone, images: Tensor) -> Tensor:
    """Global and patch features, laid out as views: the image first, then its patches.

    Args:
        backbone: open_clip's or OpenAI's CLIP with a ViT.
        images: (B, 3, size, size), preprocessed.

    Returns:
        (1 + P, B, D) float32 unit rows; [0] is `backbone.encode_image(images)`.

    Raises:
        PatchError: a ResNet, or a ViT of another make.
    """
    visual = _tower(backbone)
    block = visual.transformer.resblocks[-1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(inputs[0].float())

    hook = block.register_forward_hook(keep)
    try:
        whole = backbone.encode_image(images)
    finally:
        hook.remove()
    x = seen[0]
    # OpenAI's package and older open_clip run their blocks with the sequence first.
    if not getattr(visual.transformer, "batch_first", False):
        x = x.transpose(0, 1)
    x = x[:, 1:]  # (B, P, width), without the class token
    x = _value_path(block, x)
    x = visual.ln_post(x) @ visual.proj
    return torch.cat([whole[None], F.normalize(x.float(), dim=-1).transpose(0, 1)])


def _value_path(block: Any, x: Tensor) -> Tensor:
    """The last block with every token attending to itself, (B, P, width)."""
    width = x.shape[-1]
    attn = block.attn
    value = F.linear(block.ln_1(x), attn.in_proj_weight[-width:], attn.in_proj_bias[-width:])
    value = attn.out_proj(value)
    x = x + getattr(block, "ls_1", nn.Identity())(value)
    return x + getattr(block, "ls_2", nn.Identity())(block.mlp(block.ln_2(x)))


def _tower(backbone: Backbone) -> Any:
    visual: Any = getattr(backbone.model, "visual", None)
    for name in ("class_embedding", "transformer", "ln_post", "proj"):
        if getattr(visual, name, None) is None:
            raise PatchError(
                f"the image tower of {backbone.name} has no '{name}': patch features need a ViT "
                "of open_clip or of OpenAI's package, such as ViT-B/16"
            )
    attn = getattr(visual.transformer.resblocks[-1], "attn", None)
    if getattr(attn, "in_proj_weight", None) is None:
        raise PatchError(f"the attention layers of {backbone.name} are of an unknown make")
    return visual

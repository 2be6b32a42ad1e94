"""Texts in a precision of their own: the same model, its text tower in fewer bits."""

from __future__ import annotations

import copy
from typing import Literal

import torch

from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.precision import Precision, native_on_cpu, warn_of_emulation

TextPrecision = Literal["same", "auto", "fp32", "bf16"]


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bf16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and native_on_cpu("bf16") is True


def text_precision(backbone: Backbone, wanted: TextPrecision) -> str:
    """The precision that texts are encoded in.

    Args:
        backbone: the model, with a precision of its own.
        wanted: `same` is the model's; `auto` is bf16 where the model is in fp32 and its device has
            the instructions, else the model's.
    """
    if wanted == "auto":
        gains = backbone.dtype == torch.float32 and has_bf16(backbone.device)
        return "bf16" if gains else backbone.precision
    return backbone.precision if wanted == "same" else wanted


def text_backbone(backbone: Backbone, wanted: TextPrecision) -> Backbone:
    """The backbone in the precision that texts are encoded in; weights are shared.

    It is the backbone itself where that is its own precision. What it encodes equals what a
    backbone of that precision encodes, so both may share stored features.
    """
    precision = text_precision(backbone, wanted)
    if precision == backbone.precision:
        return backbone
    made: dict[str, Backbone] = backbone.__dict__.setdefault("_in_precision", {})
    if precision not in made:
        chosen: Precision = "bf16" if precision == "bf16" else "fp32"
        warn_of_emulation(chosen, backbone.device)
        _ = backbone.digest  # taken once for both
        other = copy.copy(backbone)
        other.precision = chosen
        for name in ("_tower", "_lowered", "_compiled", "_pseudo_prompts", "_in_precision"):
            other.__dict__.pop(name, None)  # they are of the other precision
        made[precision] = other
    return made[precision]

"""The precisions that towers run in, and what goes with them: compiling, and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from openood_interneg.settings import SettingsError, first_line

Precision = Literal["fp32", "bf16", "fp16", "fp32+compile", "bf16+compile", "fp16+compile"]
COMPILE = "+compile"

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class CompiledTower:
    """What `torch.compile` made; that it cannot work here only shows at the first call."""

    def __init__(self, tower: Callable[[Tensor], Tensor], precision: str):
        self.tower, self.precision = tower, precision

    def __call__(self, images: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.tower(images)
        except TorchDynamoException as error:
            raise SettingsError(
                f"precision is {self.precision!r}, and torch.compile does not work here "
                f"({first_line(error)}); use {self.precision.removesuffix(COMPILE)!r}, or "
                "install a C++ compiler"
            ) from error


def native_on_cpu(precision: str) -> bool | None:
    """Whether this CPU has instructions for a precision; None where torch does not tell."""
    name = precision.removesuffix(COMPILE)
    if name == "fp32":
        return True
    if not torch.backends.mkldnn.is_available():
        return None
    supported = {
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }.get(name)
    return None if supported is None else bool(supported())


def warn_of_emulation(precision: Precision, device: torch.device) -> None:
    """A CPU without instructions for a low precision computes it many times slower than fp32."""
    if device.type == "cpu" and native_on_cpu(precision) is False:
        warnings.warn(
            f"this CPU has no instructions for {precision} and emulates it, many times slower than "
            "fp32; leave --precision out, or use a GPU",
            stacklevel=3,
        )

"""Running OpenOOD's code on the device of the network, whatever it asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def network_device(net: nn.Module) -> torch.device:
    """Device of a network's parameters; the CPU for one without any."""
    for tensor in (*net.parameters(), *net.buffers()):
        return tensor.device
    return torch.device("cpu")


def redirect_cuda(device: torch.device | str) -> contextlib.AbstractContextManager[Any]:
    """A context in which what OpenOOD sends to "cuda" goes to `device` instead.

    OpenOOD writes `.cuda()` in its evaluator and in the setup of nearly every method. Inside this
    block, in this thread, `tensor.cuda()`, `module.cuda()`, `tensor.to("cuda")` and
    `torch.ones(1, device="cuda")` mean `device`. Nothing is patched: it is PyTorch's own
    interception of calls, and it ends with the block. On the current CUDA device there is nothing
    to redirect and the context is empty.
    """
    device = torch.device(device)
    current = device.type == "cuda" and device.index in (None, torch.cuda.current_device())
    return contextlib.nullcontext() if current else _RedirectedCuda(device)


class _RedirectedCuda(TorchFunctionMode):
    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0].to(self.device)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = self.device
        elif func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], self.device, *args[2:])
        return func(*args, **kwargs)


def _is_cuda(device: object) -> bool:
    """Whether a device argument is CUDA without a number, or the number's default, 0."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.split(":")[0] == "cuda"

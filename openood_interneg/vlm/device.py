"""Devices: the check that one can be used, before anything is loaded onto it, and its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from openood_interneg.settings import SettingsError, first_line
from openood_interneg.vlm.precision import native_on_cpu


def pick_device(name: str | torch.device) -> torch.device:
    """`auto` -> a GPU if there is one; any other device as it is, once a tensor fits on it.

    A GPU is CUDA's, or else Apple's.

    Raises:
        SettingsError: a device that is unknown or not there.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # A backend that was not compiled in raises AssertionError or NotImplementedError.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise SettingsError(
            f"device '{name}' cannot be used here ({first_line(error, 100)}); use the device 'cpu'"
        ) from error
    return device


@contextlib.contextmanager
def operators_of(device: torch.device) -> Iterator[None]:
    """An operator that Apple's GPUs lack is an error for people.

    Raises:
        SettingsError: naming the remedy.
    """
    try:
        yield
    except NotImplementedError as error:
        if device.type != "mps":
            raise
        raise SettingsError(
            f"the device 'mps' lacks an operator ({first_line(error, 120)}); set "
            "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts, so that the CPU takes it over, or "
            "use the device 'cpu'"
        ) from error


def instruction_set() -> str:
    """The vector instructions that torch uses on this CPU, as AVX2 or "AVX512 with bf16"."""
    name = torch.backends.cpu.get_cpu_capability()
    return f"{name} with bf16" if native_on_cpu("bf16") else name


def device_name(device: str | torch.device) -> str:
    """Name of a GPU, or CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else "CPU"

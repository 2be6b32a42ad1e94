"""Devices: the check that one can be used, before anything is loaded onto it, and its name."""

from __future__ import annotations

import torch

from openood_interneg.settings import SettingsError, first_line


def pick_device(name: str | torch.device) -> torch.device:
    """`auto` -> a GPU if there is one; any other device as it is, once a tensor fits on it.

    Raises:
        SettingsError: a device that is unknown or not there.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # A backend that was not compiled in raises AssertionError or NotImplementedError.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise SettingsError(
            f"device '{name}' cannot be used here ({first_line(error, 100)}); use the device 'cpu'"
        ) from error
    return device


def device_name(device: str | torch.device) -> str:
    """Name of a GPU, or CPU."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

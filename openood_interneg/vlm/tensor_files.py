"""The only reader of untrusted tensor files: checkpoints of models and prompts.

Nothing in a file is executed, no other file is loaded because of it, and a small file cannot
unfold to a large amount of memory.
"""

from __future__ import annotations

import pickle
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openood_interneg.settings import InternegError, first_line

_SPARE = 2**20  # bytes of names and structure around the tensors
_TIED = 8  # a tensor may have several names, but not thousands


def read_tensors(path: Path, error: type[InternegError]) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of one that torch reads with `weights_only=True`.

    Args:
        path: the file.
        error: what is raised, so that each caller's users see its own kind.

    Returns:
        dotted name ("state_dict.ctx") -> tensor on the CPU, in the dtype it was saved in.

    Raises:
        error: absent or no regular file; TorchScript, which carries code; truncated, damaged or
            with other things than tensors in it; tensors that would unfold to more than the file.
    """
    size = check_tensor_file(path, error)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = dict(_flattened(content, ""))
    except Exception as failure:  # safetensors and torch raise many kinds
        # torch's own text goes on with advice to load the file all the same.
        pickled = isinstance(failure, pickle.UnpicklingError)
        reason = "it does not unpickle to plain tensors" if pickled else first_line(failure)
        raise error(
            f"cannot read the checkpoint {path}: {reason}; it is truncated, damaged or not a file "
            "of plain tensors. Download it again, or save its tensors alone where the file is "
            "trusted (safetensors is best)"
        ) from failure
    total = 0
    for name, tensor in tensors.items():
        total += _real_bytes(name, tensor, path, error)
    if total > _TIED * size + _SPARE:
        raise error(
            f"{path}: {size:,} bytes unfold to {total:,} bytes of tensors; it is no checkpoint"
        )
    return tensors


def check_tensor_file(path: Path, error: type[InternegError]) -> int:
    """Size in bytes of a file that may be opened as a checkpoint; see `read_tensors`."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        raise error(f"no checkpoint at {path}; check the path") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise error(f"{path} is {kind}; give the path of a regular file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            if any("/code/" in member.filename for member in members):
                raise error(
                    f"{path} is a TorchScript archive, which holds code, and code from a "
                    "checkpoint is never run here. Where they can be downloaded the same weights "
                    "come through load_backbone('ViT-B/16'); else, on a machine that trusts the "
                    "file, torch.save(torch.jit.load(FILE, 'cpu').state_dict(), NEW) leaves the "
                    "tensors"
                )
            unpacked = sum(member.file_size for member in members)
            if unpacked > 2 * status.st_size + _SPARE:
                raise error(
                    f"{path}: {status.st_size:,} bytes unpack to {unpacked:,}; torch.save does "
                    "not compress, so this is no checkpoint of its making"
                )
    except (OSError, zipfile.BadZipFile) as failure:
        raise error(
            f"cannot read the checkpoint {path}: {first_line(failure)}; check its permissions, or "
            "download it again if it is damaged"
        ) from failure
    return status.st_size


def _real_bytes(name: str, tensor: Tensor, path: Path, error: type[InternegError]) -> int:
    """Bytes of a plain tensor, all of whose values are in the file."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized:
        raise error(f"{path}: '{name}' is sparse, quantised or without values; save it dense")
    held, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if needed > held:
        raise error(
            f"{path}: '{name}' has shape {tuple(tensor.shape)}, {needed:,} bytes, of which the "
            f"file holds {held:,}; save its tensors with .contiguous()"
        )
    return needed


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flattened(part, f"{name}.{key}".removeprefix("."))

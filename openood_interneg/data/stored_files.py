"""Files that are whole or absent: written under another name, renamed when complete, checked
when they are read."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from openood_interneg.data.atomic_files import atomic_path
from openood_interneg.data.digests import tensors_digest
from openood_interneg.settings import InternegError


class StoreError(InternegError, RuntimeError):
    """A stored file that is damaged or cannot be written."""


@dataclass(frozen=True)
class Rows:
    """What a stored tensor must look like; its first dimension counts rows and is left out.

    Attributes:
        shape: of a row; None stands for any size.
        dtype: of all values.
        values: "any"; "number", no NaN; "unit", finite rows of length 1.
        check_values: raises ValueError for other values.
    """

    shape: tuple[int | None, ...] = ()
    dtype: torch.dtype = torch.float32
    values: Literal["any", "number", "unit"] = "any"
    check_values: Callable[[Tensor], Any] | None = None

    def check_shape(self, name: str, shape: tuple[int, ...], rows: int | None) -> None:
        """Raises ValueError where a shape does not fit, before the values are read."""
        wanted = (rows, *self.shape)
        fits = len(shape) == len(wanted) and all(
            want in (None, size) for want, size in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"'{name}' has the shape {tuple(shape)}")

    def check(self, name: str, tensor: Tensor, rows: int | None) -> None:
        """Raises ValueError where a tensor is something else."""
        self.check_shape(name, tuple(tensor.shape), rows)
        if tensor.dtype != self.dtype:
            raise ValueError(f"'{name}' holds {tensor.dtype}, not {self.dtype}")
        if self.values != "any" and bool(tensor.isnan().any()):
            raise ValueError(f"'{name}' contains NaN")
        if self.values == "unit" and bool(((tensor.norm(dim=-1) - 1).abs() > 1e-2).any()):
            raise ValueError(f"'{name}' has rows that are not of length 1")
        if self.check_values is not None:
            self.check_values(tensor)


Layout = Mapping[str, Rows]


def check_layout(tensors: Mapping[str, Tensor], layout: Layout, rows: int | None) -> None:
    """Raises ValueError where tensors are not those of a layout.

    Args:
        rows: how many there must be; None for any number, the same for all.
    """
    if set(tensors) != set(layout):
        raise ValueError(f"it holds {sorted(tensors)}, not {sorted(layout)}")
    for name, wanted in layout.items():
        wanted.check(name, tensors[name], rows)
        rows = len(tensors[name])


# ---- writing -------------------------------------------------------------------------------


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    mode: int | None = None,
) -> None:
    """Writes a safetensors file atomically, with a digest of its tensors in the header."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {k: json.dumps(v) for k, v in metadata.items()} | {"digest": tensors_digest(tensors)}
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))


def discard(path: Path) -> None:
    """Removes a damaged file; a folder of that name is renamed, not emptied."""
    with suppress(FileNotFoundError):  # another process was faster
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))
        else:
            path.unlink()


# ---- reading -------------------------------------------------------------------------------


def read_tensors(
    path: Path, layout: Layout | None = None, rows: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of `write_tensors` and checks its digest.

    Args:
        path: of the file.
        layout: what it must hold.
        rows: how many rows; None for any number.

    Raises:
        StoreError: absent, no regular file, truncated, changed or foreign.
    """
    try:
        # A FIFO would wait for ever, and a device never ends.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StoreError(f"cannot read {path}: it is no regular file")
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            names = list(file.keys())
            for name in names:  # a shape that does not fit is not read into memory
                if layout is not None and name in layout:
                    layout[name].check_shape(name, tuple(file.get_slice(name).get_shape()), rows)
            # Cloned: in the file they are not aligned, which changes the last bits of products.
            tensors = {name: file.get_tensor(name).clone() for name in names}
        if header.pop("digest", None) != tensors_digest(tensors):
            raise StoreError(f"{path} is damaged: its content does not match its digest")
        if layout is not None:
            check_layout(tensors, layout, rows)
        return tensors, {k: json.loads(v) for k, v in header.items()}
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # headers with nonsense raise many kinds
        raise StoreError(f"{path} is damaged: {str(error)[:200]}") from error

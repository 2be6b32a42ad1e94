"""A detector on disk: one safetensors file, checked before any of it is believed.

The file holds tensors and one JSON text, itself stored as bytes in a tensor so that the digest
covers it. Reading runs no code from the file: there is no pickle, and nothing in it names a file
to open. A file that is truncated, has a changed bit or is well-formed with nonsense in it ends in
a `StateError`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from openood_interneg.data.store import StoreError, read_tensors, write_tensors
from openood_interneg.settings import shown

# 2: the model's digest covers its architecture, the ID images' digest their content.
# 3: of any method, with the features of the calibration images.
FORMAT, VERSION = "openood-interneg state", 3
STALE = 600.0  # seconds: no writer takes so long

# name -> (dtype, sizes); letters stand for sizes that must agree
_FLOAT, _INT = torch.float32, torch.int64
_TENSORS = {
    "labels": (_FLOAT, "CD"),
    "negatives": (_FLOAT, "MD"),
    "proxy_keys": (_INT, "P"),
}
_OPTIONAL = {
    "proxies": (_FLOAT, "CD"),
    "base": (_FLOAT, "C"),
    "image_base": (_FLOAT, "C"),
    "shots": (_FLOAT, "ND"),
    "shot_labels": (_INT, "N"),
    # of InterNeg's memory; other methods look through their own when they load it
    "memory.bank.features": (_FLOAT, "KD"),
    "memory.bank.deviation": (_FLOAT, "K"),
    "memory.bank.keys": (_INT, "K"),
    "memory.bank.offered": (_INT, ""),
    "memory.bank.born": (_INT, "K"),
    "memory.bank.recent": (_INT, "R"),
    "memory.seen": (_INT, ""),
    "memory.inverted": (_INT, ""),
    "memory.skipped": (_INT, ""),
    "memory.prefilter.looked": (_INT, ""),
    "memory.prefilter.admissible": (_FLOAT, "A"),
}
_META = {
    "method": str,
    "settings": dict,
    "protections": dict,
    "class_names": list,
    "negative_words": list,
    "backbone": dict,
    "preprocess": dict,
    "reading": dict,
    "digests": dict,
    "random": dict,
    "logit_scale": float,
    "batch_size": int,
    "threshold": dict,
    "stream": dict,
}


class StateError(StoreError):
    """A state that is damaged, or that belongs to another model, label set or setting."""


def write_state(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a state: the file at `path` is the old one or the new one at any moment.

    Raises:
        StateError: the file cannot be written.
    """
    text = json.dumps(dict(meta), ensure_ascii=True, allow_nan=False).encode()
    packed = dict(tensors) | {"meta": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    try:
        write_tensors(Path(path), packed, {"format": FORMAT, "version": VERSION})
    except OSError as error:
        raise StateError(f"cannot write the state {path}: {error}") from error


@contextmanager
def claimed(path: Path | None) -> Iterator[None]:
    """Holds a state for one run: until the block ends nobody else can claim it.

    The claim is a lock on a hidden file beside the state. The system drops it with the process
    that holds it, so a killed run leaves none. On entry, what writers that were killed while they
    wrote have left is swept.

    Args:
        path: the state's file, whether it is there or not; None claims nothing.

    Raises:
        StateError: another run holds it, or the folder cannot be written.
    """
    if path is None:
        yield
        return
    target = Path(os.path.realpath(Path(path).expanduser()))
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StateError(
            f"the state {path} is in use by another run; wait for its end, or give this run a "
            "state of its own"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise StateError(f"cannot claim the state {path}: {error}") from error
    try:
        sweep(target)
        yield
    finally:
        lock.release()


def sweep(path: Path, age: float = STALE) -> None:
    """Removes what writers of this state that were killed while they wrote have left.

    A writer that lives touched its file less than `age` seconds ago.
    """
    target = Path(os.path.realpath(path))
    for leftover in target.parent.glob(f".{escape(target.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= age:
                leftover.unlink()


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a state and checks its digest, its entries, their types, shapes and values.

    Returns:
        Tensors and the decoded text.

    Raises:
        StateError: absent, damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise StateError(f"no state at {path}")
    try:
        tensors, header = read_tensors(path)
    except StoreError as error:
        raise StateError(
            f"{error}. Start anew without it, or from a copy of an earlier one"
        ) from error
    except Exception as error:  # headers with nonsense raise many kinds
        raise StateError(
            f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    if header.get("format") != FORMAT:
        raise StateError(f"{path} is no state of a detector")
    if header.get("version") != VERSION:
        version = shown(header.get("version"))
        raise StateError(
            f"{path} is of version {version}, and this program reads {VERSION}, which says more of "
            "the method and the threshold; start a new state"
        )
    try:
        meta = _decoded(tensors.pop("meta", None))
        _check_tensors(tensors, meta)
    except StateError as error:
        raise StateError(f"{path} is damaged: {error}") from None
    # A tensor that lies where the file happens to put it is unaligned, and matrix products of
    # unaligned rows differ in their last bits from those before the state was written.
    return {name: tensor.clone() for name, tensor in tensors.items()}, meta


def refuse_differences(what: str, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises where a stored value is not the present one.

    Args:
        what: names the state.
        pairs: name -> (stored, present).

    Raises:
        StateError: naming every difference with both values.
    """
    different = [
        f"{name}: {_shown(stored)} in the state, {_shown(present)} here"
        for name, (stored, present) in pairs.items()
        if stored != present
    ]
    if different:
        raise StateError(f"{what} does not belong to this run; {'; '.join(different)}")


def differing_names(stored: Sequence[str], present: Sequence[str]) -> tuple[str, str]:
    """Two label sets in few words: their sizes and the first place where they differ."""
    for place, (a, b) in enumerate(zip(stored, present, strict=False)):
        if a != b:
            return f"{len(stored)} names, number {place} is {a!r}", f"{len(present)}, {b!r}"
    return f"{len(stored)} names", f"{len(present)} names"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 80 else shown(value)


def _decoded(packed: Tensor | None) -> dict[str, Any]:
    if packed is None or packed.dtype != torch.uint8 or packed.dim() != 1:
        raise StateError("it lacks its description")
    try:
        meta = json.loads(packed.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise StateError(f"its description is no JSON ({error})") from None
    if not isinstance(meta, dict):
        raise StateError("its description is no JSON object")
    for name, kind in _META.items():
        if not isinstance(meta.get(name), kind) or isinstance(meta.get(name), bool):
            raise StateError(f"'{name}' is missing or no {kind.__name__}")
    for name in ("class_names", "negative_words"):
        if not all(isinstance(entry, str) for entry in meta[name]):
            raise StateError(f"'{name}' holds something that is no text")
    _check_threshold(meta["threshold"])
    if not (math.isfinite(meta["logit_scale"]) and meta["logit_scale"] > 0):
        raise StateError(f"the logit scale is {meta['logit_scale']!r}")
    if meta["batch_size"] < 1:
        raise StateError(f"the batch size is {meta['batch_size']!r}")
    stream = meta["stream"]
    for name in ("position", "failed"):
        value = stream.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise StateError(f"the stream's {name} is {value!r}")
    if not isinstance(stream.get("names"), str):
        raise StateError("the stream's names have no digest")
    return meta


def _check_threshold(threshold: Mapping[str, Any]) -> None:
    if set(threshold) != {"mode", "alpha", "tpr", "given", "fixed"}:
        raise StateError(f"its threshold has the entries {sorted(threshold)}")
    if threshold["mode"] not in ("follow", "fixed"):
        raise StateError(f"the mode of the threshold is {threshold['mode']!r}")
    for name in ("alpha", "tpr"):
        value = threshold[name]
        if not (isinstance(value, float) and 0 <= value <= 1):
            raise StateError(f"{name} is {value!r}; it lies from 0 to 1")
    for name in ("given", "fixed"):
        value = threshold[name]
        if value is not None and not (isinstance(value, float) and math.isfinite(value)):
            raise StateError(f"the {name} gamma is {value!r}; it is a finite number")


def _check_tensors(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    sizes = {"C": len(meta["class_names"]), "M": len(meta["negative_words"])}
    for name, (dtype, shape) in (_TENSORS | _OPTIONAL).items():
        tensor = tensors.get(name)
        if tensor is None:
            if name in _TENSORS:
                raise StateError(f"it lacks '{name}'")
            continue
        if tensor.dtype != dtype or tensor.dim() != len(shape):
            raise StateError(f"'{name}' is {tensor.dtype} with {tensor.dim()} dimensions")
        for letter, size in zip(shape, tensor.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise StateError(f"'{name}' has {size} rows or columns, not {sizes[letter]}")
        if dtype is _FLOAT:
            if not bool(torch.isfinite(tensor).all()):
                raise StateError(f"'{name}' contains NaN or infinity")
            if shape.endswith("D") and bool(((tensor.norm(dim=-1) - 1).abs() > 1e-2).any()):
                raise StateError(f"'{name}' has rows that are not of length 1")
        elif len(tensor.reshape(-1)) and int(tensor.min()) < 0:
            raise StateError(f"'{name}' has negative entries")
    if not sizes["C"]:
        raise StateError("it has no classes")
    calibration = tensors.get("calibration")
    if calibration is not None and calibration.shape[-1:] != tensors["labels"].shape[1:]:
        raise StateError(f"its calibration features have shape {tuple(calibration.shape)}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise StateError(f"'{name}' contains NaN")

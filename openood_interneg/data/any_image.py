"""Images of unknown origin: from files, bytes, URLs, arrays and tensors, within limits.

An application takes images from strangers: `open_image` refuses what is too large before decoding
it, turns photographs upright and scales 16-bit pictures instead of clipping them; `as_image` takes
arrays and tensors besides. Files are opened and decoded as for benchmarks (`data.images`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openood_interneg.data.image_entries import Deferred, is_undecoded
from openood_interneg.data.image_urls import check_schemes, is_url, read_url, shown_url
from openood_interneg.data.images import (
    ImageError,
    opened,
    opened_bytes,
    printable,
    read_failure,
    whole_images_only,
)
from openood_interneg.settings import InternegError, checked, first_line

_MAX_SAMPLE_VALUE = 281  # TIFF tag
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """How an application reads images.

    Attributes:
        exif: turn photographs upright as their EXIF orientation says; benchmarks do not.
        max_pixels: larger images are refused before they are decoded.
        max_bytes: larger files are refused before they are opened.
        max_aspect: longer strips are refused: resizing the short side to the model's input would
            make them huge.
        bits: bits that 16-bit pictures really hold: 12 for most cameras of science and industry.
        urls: schemes of URLs that may be opened, such as ("https", "s3", "zip"); none unasked. A
            state on disk does not hold them.
    """

    exif: bool = True
    max_pixels: int = 80_000_000
    max_bytes: int = 256 * 2**20
    max_aspect: float = 100.0
    bits: int = 16
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked("bits", self.bits, int, {"low": 8, "high": 16})
        object.__setattr__(self, "urls", check_schemes(self.urls))
        for name, hint in (("exif", bool), ("max_pixels", int), ("max_bytes", int)):
            checked(name, getattr(self, name), hint, {"low": 1})
        checked("max_aspect", self.max_aspect, float, {"low": 1})

    def kept(self) -> dict[str, Any]:
        """All but `urls`: who loads a state from elsewhere says himself what may be opened."""
        return {name: value for name, value in asdict(self).items() if name != "urls"}


def open_image(path: str | os.PathLike[str], limits: ImageLimits | None = None) -> Image.Image:
    """Reads an image file of unknown origin as upright RGB.

    Of an animation or a file with several pages the first is read. Transparency is dropped, as
    in `read_rgb`; grey, palette and CMYK pictures become RGB; 16-bit grey is scaled to 8 bits.

    Raises:
        ImageError: absent, empty, truncated, too large, or no raster image; the path is named.
    """
    limits = limits or ImageLimits()
    with whole_images_only():
        return _read(lambda: opened(path, limits.max_bytes), printable(path), limits)


def _read(
    opening: Callable[[], AbstractContextManager[Image.Image]], name: str, limits: ImageLimits
) -> Image.Image:
    try:
        with opening() as image:
            return _upright_rgb(image, limits)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ImageError(f"cannot read the image {name}: {read_failure(error)}") from error


def _from_bytes(data: bytes, limits: ImageLimits, name: str = "") -> Image.Image:
    name = name or f"in {len(data)} bytes"
    with whole_images_only():
        return _read(lambda: opened_bytes(data, limits.max_bytes), name, limits)


def as_image(source: Any, limits: ImageLimits | None = None) -> Image.Image:
    """One image from whatever an application has, as 8-bit RGB.

    Args:
        source: a path; a URL that the limits allow; the bytes of a file, or a file that is open
            for reading them; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or
            a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W) on any device. Values are uint8,
            uint16, or floats from 0 to 1 (rounded to 8 bits); a fourth channel is dropped.

    Raises:
        ImageError: a file that cannot be read, another shape or type, values that are not finite
            or not in range.
    """
    limits = limits or ImageLimits()
    if is_url(source):
        data = read_url(source, limits.urls, limits.max_bytes)
        return _from_bytes(data, limits, shown_url(source))
    if isinstance(source, (str, os.PathLike)):
        return open_image(source, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), limits)
    if isinstance(source, Deferred):
        return _deferred(source, limits)
    if is_undecoded(source):
        data, path = source["bytes"], source["path"]
        return as_image(path, limits) if data is None else _from_bytes(data, limits, path or "")
    if hasattr(source, "read"):
        return _from_file(source, limits)
    if isinstance(source, Image.Image):
        try:
            return _upright_rgb(source, limits)
        except ImageError:
            raise
        except Exception as error:  # lazily loaded from a damaged file
            raise ImageError(f"cannot read the PIL image: {error}") from error
    if isinstance(source, Tensor):
        _check_shape(tuple(source.shape), "tensor", limits)
        return _from_array(_tensor_array(source), "tensor", tuple(source.shape), limits)
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", source.shape, limits)
    raise ImageError(
        "an image is a path, bytes, an open file, a PIL image, an array or a tensor, not "
        f"{type(source).__name__}"
    )


def _deferred(source: Deferred, limits: ImageLimits) -> Image.Image:
    try:
        found = source.read(limits.max_bytes)
        if isinstance(found, bytes):
            return _from_bytes(found, limits, source.name)
    except InternegError:
        raise
    except Exception as error:  # a data set of somebody else's
        raise ImageError(f"cannot read {source.name or 'an image'}: {first_line(error)}") from error
    return as_image(found, limits)


def _from_file(file: Any, limits: ImageLimits) -> Image.Image:
    try:
        data = file.read(limits.max_bytes + 1)
    except Exception as error:  # closed, not readable, a text that is no UTF-8
        raise ImageError(f"cannot read the open file: {first_line(error)}") from error
    if not isinstance(data, bytes):
        raise ImageError("the open file gives text; open it for bytes, as in open(path, 'rb')")
    name = getattr(file, "name", "")
    return _from_bytes(data, limits, printable(name) if isinstance(name, str) else "")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"it has {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"it has {width} x {height} pixels; the limit is {limits.max_pixels} in all"
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageError(
            f"it has {width} x {height} pixels, a strip; one side may be at most "
            f"{limits.max_aspect:g} times the other"
        )


def _upright_rgb(image: Image.Image, limits: ImageLimits) -> Image.Image:
    _check_size(*image.size, limits)
    turn = _orientation(image) if limits.exif else None
    if image.mode.startswith("I") or image.mode == "F":
        rgb = _from_deep(image, limits)
    else:
        rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 0))
    except Exception:  # damaged EXIF says nothing about the pixels
        return None


def _from_deep(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """16-bit, 32-bit and float grey: scaled to 8 bits, where Pillow's convert would clip."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ImageError("it has pixels that are NaN or infinite")
        top = 1.0 if values.max() <= 1 else 255.0
        if values.min() < 0 or values.max() > top:
            raise ImageError("its float pixels are neither from 0 to 1 nor from 0 to 255")
        grey = np.rint(values * (255 / top)).astype(np.uint8)
    else:
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("its pixels do not fit in 16 bits")
        told = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        grey = _from_16_bits(values, limits, told[0] if isinstance(told, tuple) else told)
    return Image.fromarray(grey).convert("RGB")


def _from_16_bits(values: np.ndarray, limits: ImageLimits, told: Any = None) -> np.ndarray:
    """Values of 16-bit pictures as uint8; `told` is the largest possible one, if the file says."""
    top, high = 2**limits.bits - 1, int(values.max())
    if limits.bits == 16 and told in (1023, 4095, 16383) and high <= told:
        top = told
    if high > top:
        raise ImageError(
            f"it has pixels up to {high}, and {limits.bits} bits (limits, --bits) end at {top}"
        )
    if top == 65535 and 0 < high < 4096:
        bits = 8 if high < 256 else 12
        warnings.warn(
            f"a 16-bit picture has no pixel above {2**bits - 1} and is nearly black to the model; "
            f"if its pixels have {bits} bits, say limits=ImageLimits(bits={bits}) (interneg score "
            f"--bits {bits})",
            stacklevel=3,
        )
    out: np.ndarray = np.rint(values / (top / 255)).astype(np.uint8)
    return out


def _tensor_array(tensor: Tensor) -> np.ndarray:
    """A (C, H, W) or (H, W) tensor as an (H, W, C) or (H, W) array."""
    try:
        tensor = tensor.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        return (tensor.permute(1, 2, 0) if tensor.dim() == 3 else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, meta, quantised
        reason = str(error).splitlines()[0][:120]
        raise ImageError(f"the tensor's values cannot be read: {reason}") from error


def _check_shape(shape: tuple[int, ...], kind: str, limits: ImageLimits) -> None:
    """Refuses what is no image, or too large a one, before any of its values is looked at."""
    first = kind == "tensor"  # where the channels stand
    sides = shape[-2:] if first else shape[:2]
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0 if first else 2] not in (1, 3, 4)):
        wanted = "(H, W) or (3, H, W)" if kind == "tensor" else "(H, W) or (H, W, 3)"
        raise ImageError(f"the {kind} has shape {shape}; an image is {wanted}")
    try:
        _check_size(sides[1], sides[0], limits)
    except ImageError as error:
        raise ImageError(f"the {kind} cannot be an image: {error}") from None


def _from_array(
    array: np.ndarray, kind: str, shape: tuple[int, ...], limits: ImageLimits
) -> Image.Image:
    _check_shape(tuple(shape), kind, limits)
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    if array.dtype == np.uint16:
        array = _from_16_bits(array, limits)
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError(f"the {kind} contains NaN or infinity")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise ImageError(
                f"the {kind} has values from {low:.4g} to {high:.4g}; floats go from 0 to 1 "
                "(before any normalisation), uint8 from 0 to 255"
            )
        array = np.rint(array * 255.0)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"the {kind} holds {array.dtype}; give uint8, uint16, or floats from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).convert("RGB")

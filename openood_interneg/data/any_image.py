"""Images of unknown origin: from files, arrays and tensors, within limits.

An application takes images from strangers: `open_image` refuses what is too large before decoding
it, turns photographs upright and scales 16-bit pictures instead of clipping them; `as_image` takes
arrays and tensors besides. Files are opened and decoded as for benchmarks (`data.images`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openood_interneg.data.images import (
    ImageError,
    opened,
    printable,
    read_failure,
    whole_images_only,
)
from openood_interneg.settings import checked

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
    """

    exif: bool = True
    max_pixels: int = 80_000_000
    max_bytes: int = 256 * 2**20
    max_aspect: float = 100.0

    def __post_init__(self) -> None:
        for name, hint in (("exif", bool), ("max_pixels", int), ("max_bytes", int)):
            checked(name, getattr(self, name), hint, {"low": 1})
        checked("max_aspect", self.max_aspect, float, {"low": 1})


def open_image(path: str | os.PathLike[str], limits: ImageLimits | None = None) -> Image.Image:
    """Reads an image file of unknown origin as upright RGB.

    Of an animation or a file with several pages the first is read. Transparency is dropped, as
    in `read_rgb`; grey, palette and CMYK pictures become RGB; 16-bit grey is scaled to 8 bits.

    Raises:
        ImageError: absent, empty, truncated, too large, or no raster image; the path is named.
    """
    limits = limits or ImageLimits()
    try:
        with whole_images_only(), opened(path, limits.max_bytes) as image:
            return _upright_rgb(image, limits)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ImageError(
            f"cannot read the image {printable(path)}: {read_failure(error)}"
        ) from error


def as_image(source: Any, limits: ImageLimits | None = None) -> Image.Image:
    """One image from whatever an application has, as 8-bit RGB.

    Args:
        source: a path; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a
            tensor (H, W), (1, H, W), (3, H, W) or (4, H, W) on any device. Values are uint8,
            uint16, or floats from 0 to 1 (rounded to 8 bits); a fourth channel is dropped.

    Raises:
        ImageError: a file that cannot be read, another shape or type, values that are not finite
            or not in range.
    """
    limits = limits or ImageLimits()
    if isinstance(source, (str, os.PathLike)):
        return open_image(source, limits)
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
        f"an image is a path, a PIL image, an array or a tensor, not {type(source).__name__}"
    )


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Every file below a folder, sorted by path; hidden files and folders are left out."""
    out = []
    for here, folders, names in os.walk(os.fspath(folder)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        out += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(out)


def as_sources(images: Any) -> list[Any]:
    """Images one by one: out of a sequence, a batch in one array or tensor, a folder, or one.

    Raises:
        ImageError: something that is neither an image nor a sequence, or an empty folder.
    """
    if isinstance(images, (str, os.PathLike)):
        if not os.path.isdir(images):
            return [images]
        files = image_files(images)
        if not files:
            raise ImageError(f"there is no file in the folder {os.fspath(images)}")
        return list(files)
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    try:
        return list(images)
    except TypeError:
        raise ImageError(
            f"images come as a sequence of paths, PIL images, arrays or tensors, not as "
            f"{type(images).__name__}"
        ) from None


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
        rgb = _from_deep(image)
    else:
        rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 0))
    except Exception:  # damaged EXIF says nothing about the pixels
        return None


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey: scaled to 8 bits, where Pillow's convert would clip."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ImageError("it has pixels that are NaN or infinite")
        top = 1.0 if values.max() <= 1 else 255.0
        if values.min() < 0 or values.max() > top:
            raise ImageError("its float pixels are neither from 0 to 1 nor from 0 to 255")
        grey = values * (255 / top)
    else:
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("its pixels do not fit in 16 bits")
        grey = values / 257
    return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")


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
        array = np.rint(array / 257)
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

"""Image files, read as OpenOOD reads them, with errors that name the file.

Benchmarks are read this way. What an application takes from strangers goes through
`data.any_image`, which decodes the same raster formats and no others.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openood_interneg.settings import InternegError, require_package

# Pillow hands some of the others (EPS, for one) to programs outside it.
_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA"),
    *("JPEG2000", "AVIF", "PCX", "SGI"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


class ImageError(InternegError, ValueError):
    """An image that cannot be read."""


_decoding = threading.RLock()


def _renew_lock() -> None:
    global _decoding
    _decoding = threading.RLock()


if hasattr(os, "register_at_fork"):  # a forked worker must not wait for a thread it does not have
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def whole_images_only() -> Iterator[None]:
    """Inside the block truncated files are errors, whatever Pillow's global setting is.

    Importing OpenOOD sets Pillow's global LOAD_TRUNCATED_IMAGES, and half an image would be scored
    as if it were one. Pillow has no other setting for this, hence the lock.
    """
    with _decoding:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_rgb(path: Path) -> Image.Image:
    """Reads an image file as RGB, as OpenOOD does.

    Raises:
        ImageError: absent, truncated or foreign file; the path is named.
    """
    try:
        with whole_images_only(), opened(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ImageError(
            f"cannot read the image {printable(path)}: {read_failure(error)}; replace the file, or "
            "take it out of the list"
        ) from error


class ImageFiles(Dataset[tuple[Tensor, str]]):
    """Files -> (pixels, error text); errors travel as text so that workers do not die.

    Args:
        paths: image files.
        transform: PIL RGB image -> (3, H, W) float tensor.
        size: side of the tensor, for the placeholder of an unreadable image.
    """

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor], size: int):
        self.paths, self.transform, self.size = paths, transform, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        try:
            return self.transform(read_rgb(self.paths[index])), ""
        except ImageError as error:
            return torch.zeros(3, self.size, self.size), str(error)


def read_errors(paths: list[Path], workers: int = 0) -> Iterator[str]:
    """Reads every file to its end and yields, in order, why it cannot be read: "" if it can.

    Args:
        paths: image files.
        workers: processes that read; 0 reads in this one.
    """
    files = ImageFiles(paths, _no_pixels, 1)
    for _, errors in DataLoader(files, batch_size=32, num_workers=workers):
        yield from errors


def _no_pixels(image: Image.Image) -> Tensor:
    return torch.zeros(3, 1, 1)


def opened(path: str | os.PathLike[str], max_bytes: int | None = None) -> Image.Image:
    """Opens a file as an image, for lists and for applications."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read for ever
        raise ImageError("it is not a file")
    if status.st_size == 0:
        raise ImageError("the file is empty")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ImageError(f"the file has {status.st_size} bytes; the limit is {max_bytes}")
    return _decoder(path)


def opened_bytes(data: bytes, max_bytes: int | None = None) -> Image.Image:
    """`opened` for the content of a file."""
    if not data:
        raise ImageError("there are no bytes (a file that was read to its end? seek(0) goes back)")
    if max_bytes is not None and len(data) > max_bytes:
        raise ImageError(f"there are more than {max_bytes} bytes, which is the limit")
    return _decoder(io.BytesIO(data))


def _decoder(file: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        if not _is_heic(file):
            raise
    # pillow-heif changes Pillow for the whole process, so only when a HEIC picture has come.
    require_package("pillow_heif", "pillow-heif", "a HEIC picture (a telephone's)")
    import pillow_heif

    pillow_heif.register_heif_opener()
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return Image.open(file, formats=["HEIF"])


def _is_heic(file: str | os.PathLike[str] | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        with open(file, "rb") as stream:
            head = stream.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS


def printable(path: str | os.PathLike[str]) -> str:
    """A path for a message: it may hold control characters or broken UTF-8."""
    name = os.fsdecode(path)
    return name if name.isprintable() else ascii(name)[1:-1]


def read_failure(error: Exception) -> str:
    """Why an image cannot be read, in words that need no path."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is no image in a format that is read here ({', '.join(_formats())})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Endings of the names of files in the formats that are read here: lower case, with the dot."""
    Image.init()
    own = (suffix for suffix, name in Image.EXTENSION.items() if name in _formats())
    return frozenset((*own, ".heic", ".heif"))


@lru_cache
def _formats() -> list[str]:
    """Those of `_FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]

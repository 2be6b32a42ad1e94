"""Tiny pictures that can be told apart, for the tests of what carries images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.image_sources import carried

NAMES = ("cat", "dog")


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (6, 4), (shade, shade, shade))


def png(shade: int, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, kind)
    return buffer.getvalue()


def files(folder: Path, shades=(10, 20, 30)) -> list[Path]:
    """10.png, 20.png, ... in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for shade in shades:
        path = folder / f"{shade}.png"
        path.write_bytes(png(shade))
        out.append(path)
    return out


def shade(image, limits: ImageLimits | None = None) -> int:
    return int(np.asarray(as_image(image, limits))[0, 0, 0])


def read(data, *, labelled=True) -> list:
    """(shade, label) of every image."""
    return [(shade(e.image), e.label) for e in carried(data, labelled=labelled).entries]

"""Corruptions of an image: ImageNet-C's, and `corrupt`, which makes one copy.

The 18 corruptions at five severities are those of ImageNet-C (Hendrycks & Dietterich,
arXiv 1903.12261) with its published constants, done with NumPy, SciPy and Pillow in memory. Three
of them cannot agree with the published code bit by bit, because that code calls other libraries:

* motion blur (and snow, which uses it) follows ImageMagick's kernel, a half Gaussian along a line
  of rounded offsets, but not its 8-bit arithmetic;
* spatter's drops (severities 1 to 3) stand on OpenCV's edge detector, distance transform and
  histogram equalisation; here the distance is exact and the edges are thresholded Sobel ones
  without thinning, so drops have slightly wider rims;
* elastic transform and zoom blur resample with SciPy's linear spline instead of OpenCV's.

Everything random is drawn from a generator that is keyed by (seed, id of the image, corruption,
severity): a view depends on nothing else, neither on which other views are made nor on order.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from openood_interneg.data.blurs import (
    Array,
    Rng,
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from openood_interneg.data.weather import fog, snow, spatter
from openood_interneg.settings import InternegError

ORIGINAL = "original"
SEVERITIES = (1, 2, 3, 4, 5)


class ViewError(InternegError, ValueError):
    """A view that does not exist."""


# ---- photometric ---------------------------------------------------------------------------


def brightness(x: Array, rng: Rng, amount: float) -> Array:
    """HSV's V raised by `amount`: with hue and saturation kept, RGB scales with V."""
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + amount, 1)
    return np.where(value > 0, x * (raised / np.maximum(value, 1e-12)), raised)


def saturate(x: Array, rng: Rng, scale: float, offset: float) -> Array:
    """HSV's S to `scale` S + `offset`: with hue and V kept, V - RGB scales with S.

    A grey pixel has no hue; it counts as red, as in scikit-image.
    """
    value = x.max(axis=2, keepdims=True)
    old = 1 - x.min(axis=2, keepdims=True) / np.maximum(value, 1e-12)
    new = np.clip(old * scale + offset, 0, 1)
    grey = value * np.concatenate([np.ones_like(new), 1 - new, 1 - new], axis=2)
    return np.where(old > 0, value - (value - x) * (new / np.maximum(old, 1e-12)), grey)


def contrast(x: Array, rng: Rng, scale: float) -> Array:
    """Differences from each channel's mean, scaled."""
    # In float32 the sum over 50,000 pixels is off by enough to tip whole levels at the rounding.
    mean = x.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    return (x - mean) * scale + mean


# ---- noise ---------------------------------------------------------------------------------


def gaussian_noise(x: Array, rng: Rng, scale: float) -> Array:
    """x + N(0, scale)."""
    return x + rng.normal(0, scale, x.shape)


def shot_noise(x: Array, rng: Rng, photons: float) -> Array:
    """Poisson(photons x) / photons."""
    return rng.poisson(np.clip(x, 0, 1) * photons) / photons


def impulse_noise(x: Array, rng: Rng, amount: float) -> Array:
    """A share `amount` of all values set to 0 or 1."""
    hit = rng.random(x.shape) < amount
    return np.where(hit, rng.random(x.shape) < 0.5, x)


def speckle_noise(x: Array, rng: Rng, scale: float) -> Array:
    """x + x N(0, scale)."""
    return x + x * rng.normal(0, scale, x.shape)


# ---- geometry -------------------------------------------------------------------------------


def elastic_transform(x: Array, rng: Rng, strength: float, sigma: float, affine: float) -> Array:
    """A small random affine map, then a smooth random displacement.

    Constants are ImageNet-C's, in pixels of a 244-pixel side (its own slip for 224).
    """
    height, width = x.shape[:2]
    third = min(height, width) // 3
    middle = np.array([width // 2, height // 2], dtype=np.float64)  # x, y
    start = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    end = start + rng.uniform(-affine, affine, start.shape)
    # Where each point of the result comes from: end -> start, solved for three point pairs.
    back = np.linalg.solve(np.column_stack([end, np.ones(3)]), start)  # (3, 2)
    shifts = []
    for _ in range(2):
        noise = rng.uniform(-1, 1, (height, width))
        shifts.append(ndimage.gaussian_filter(noise, sigma, mode="reflect", truncate=3) * strength)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    points = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ back  # (H, W, 2)

    def sample(image: Array, at_rows: Array, at_columns: Array, mode: str) -> Array:
        channels = [
            ndimage.map_coordinates(image[..., c], [at_rows, at_columns], order=1, mode=mode)
            for c in range(image.shape[2])
        ]
        return np.stack(channels, axis=2)

    x = sample(x, points[..., 1], points[..., 0], "mirror")
    return sample(x, rows + shifts[1], columns + shifts[0], "reflect")


# ---- resolution ----------------------------------------------------------------------------


def pixelate(x: Array, rng: Rng, scale: float) -> Array:
    """Shrunk to `scale` of its size and enlarged again, with boxes."""
    image, (height, width) = to_image(x), x.shape[:2]
    small = image.resize(
        (max(int(width * scale), 1), max(int(height * scale), 1)), Image.Resampling.BOX
    )
    return to_array(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(x: Array, rng: Rng, quality: int) -> Array:
    """Written and read as JPEG."""
    return to_array(as_jpeg(to_image(x), quality))


# Constants by severity, from ImageNet-C.
CORRUPTIONS: dict[str, tuple[Callable[..., Array], tuple[tuple[float, ...], ...]]] = {
    "gaussian_noise": (gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": (shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": (impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "speckle_noise": (speckle_noise, ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))),
    "gaussian_blur": (gaussian_blur, ((1,), (2,), (3,), (4,), (6,))),
    "glass_blur": (
        glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": (motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (
        zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "fog": (fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "snow": (
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "spatter": (
        spatter,
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    "contrast": (contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "brightness": (brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    "jpeg_compression": (jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "elastic_transform": (
        elastic_transform,
        (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
    ),
}

_NUMBER = {name: number for number, name in enumerate(CORRUPTIONS)}  # part of the random key


def corrupt(pixels: Array, name: str, seed: int, image_id: int) -> Array:
    """One corrupted copy of (H, W, 3) pixels in [0, 1]; the same for the same arguments.

    Raises:
        ViewError: unknown corruption or severity.
    """
    kind, severity = parse_view(name)
    function, constants = CORRUPTIONS[kind]
    word = (1 << 64) - 1
    number = _NUMBER[kind] * len(SEVERITIES) + severity
    # The highest word of the counter never carries: streams of different views do not meet.
    bits = np.random.Philox(
        key=np.array([seed & word, image_id & word], dtype=np.uint64),
        counter=np.array([0, 0, 0, number], dtype=np.uint64),
    )
    view = function(pixels, np.random.Generator(bits), *constants[severity - 1])
    return np.clip(view, 0, 1).astype(np.float32)


def parse_view(name: str) -> tuple[str, int]:
    """The corruption and the severity of a view such as "fog-2"."""
    kind, _, severity = name.partition("-")
    if name == ORIGINAL:
        return name, 0
    if kind not in CORRUPTIONS or severity not in {str(s) for s in SEVERITIES}:
        raise ViewError(
            f"unknown view {name!r}; a view is 'original' or a corruption and a severity from 1 "
            f"to 5, such as 'fog-2'; corruptions: {', '.join(CORRUPTIONS)}"
        )
    return kind, int(severity)


def to_array(image: Image.Image) -> Array:
    """Pixels in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / 255


def to_image(x: Array) -> Image.Image:
    """Pixels in [0, 1] as an 8-bit image."""
    return Image.fromarray(np.uint8(np.clip(x, 0, 1) * 255))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """An image as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")

"""Blurs, as ImageNet-C has them: the corruptions that mix a pixel with its neighbours."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

Array = np.ndarray  # (H, W, 3) float32 in [0, 1], or (H, W)
Rng = np.random.Generator


def gaussian_blur(x: Array, rng: Rng, sigma: float) -> Array:
    """Gaussian of `sigma` pixels, edges repeated."""
    sigmas = (sigma, sigma, 0) if x.ndim == 3 else sigma
    return ndimage.gaussian_filter(x, sigmas, mode="nearest", truncate=4.0)


def defocus_blur(x: Array, rng: Rng, radius: int, alias: float) -> Array:
    """A disc of `radius` pixels, its rim softened by a small Gaussian of `alias` pixels."""
    reach = max(8, radius)
    line = np.arange(-reach, reach + 1)
    disc = (line[:, None] ** 2 + line[None] ** 2 <= radius**2).astype(np.float64)
    width = 1 if radius <= 8 else 2  # kernels of 3 x 3 and 5 x 5
    soft = np.exp(-(np.arange(-width, width + 1) ** 2) / (2 * alias**2))
    soft /= soft.sum()
    disc = ndimage.correlate1d(disc / disc.sum(), soft, axis=0, mode="mirror")
    return _correlate(x, ndimage.correlate1d(disc, soft, axis=1, mode="mirror"))


def motion_blur(x: Array, rng: Rng, radius: int, sigma: float) -> Array:
    """Smeared along a direction drawn from U(-45, 45) degrees."""
    return smear(x, radius, sigma, rng.uniform(-45, 45))


def smear(x: Array, radius: int, sigma: float, angle: float) -> Array:
    """Half a Gaussian over 2 radius + 1 offsets along `angle` degrees, edges repeated."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    radians = np.deg2rad(angle)
    right = np.ceil(steps * np.cos(radians) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(radians) - 0.5).astype(int)
    reach = int(max(np.abs(right).max(), np.abs(down).max()))
    height, width = x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.zeros_like(x)
    for weight, i, j in zip(weights.astype(x.dtype), reach + down, reach + right, strict=True):
        out += weight * padded[i : i + height, j : j + width]
    return out


def zoom_blur(x: Array, rng: Rng, last: float, step: float) -> Array:
    """Mean of the image and its enlargements by 1, 1 + step, ..., below `last`."""
    factors = np.arange(1, last, step)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def glass_blur(x: Array, rng: Rng, sigma: float, reach: int, rounds: int) -> Array:
    """Blurred, each pixel replaced by one nearby, blurred again.

    The published code means to swap pixels, but overwrites the first by the second before it
    copies it back, so in effect it copies; so does this.
    """
    x = np.uint8(gaussian_blur(x, rng, sigma) * 255) / np.float32(255)
    height, width = x.shape[:2]
    source = np.arange(height * width).tolist()  # which pixel each place holds
    for _ in range(rounds):
        rows = range(height - reach - 1, reach - 1, -1)
        columns = range(width - reach - 1, reach - 1, -1)
        moves = rng.integers(-reach, reach, (max(len(rows), 0), max(len(columns), 0), 2))
        jumps = (moves[..., 1] * width + moves[..., 0]).tolist()
        for row, line in zip(rows, jumps, strict=True):
            for column, jump in zip(columns, line, strict=True):
                place = row * width + column
                source[place] = source[place + jump]
    x = x.reshape(-1, x.shape[2])[source].reshape(x.shape)
    return gaussian_blur(x, rng, sigma)


def zoomed(x: Array, factor: float) -> Array:
    """The middle 1/factor of (H, W, c), enlarged to the whole."""
    height, width = x.shape[:2]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = x[top : top + rows, left : left + columns]
    # zoom rounds sizes; one output row more or less is trimmed or repeated at the end
    large = ndimage.zoom(part, (factor, factor, 1), order=1)
    top, left = max((large.shape[0] - height) // 2, 0), max((large.shape[1] - width) // 2, 0)
    large = large[top : top + height, left : left + width]
    missing = (height - large.shape[0], width - large.shape[1])
    if max(missing) > 0:
        large = np.pad(large, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return large


def _correlate(x: Array, kernel: Array) -> Array:
    """Every channel of (H, W, c) with an odd square kernel; torch has the fast loop for it."""
    reach = kernel.shape[0] // 2
    while reach > 0 and not kernel[[0, -1]].any() and not kernel[:, [0, -1]].any():
        kernel, reach = kernel[1:-1, 1:-1], reach - 1  # zeros at the rim cost as much as others
    planes = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1), dtype=np.float32))[:, None]
    # The mirror image of a picture that is smaller than the kernel ends too soon.
    mode = "reflect" if reach < min(x.shape[:2]) else "replicate"
    planes = F.pad(planes, (reach,) * 4, mode=mode)
    weight = torch.from_numpy(np.ascontiguousarray(kernel, dtype=np.float32))[None, None]
    return F.conv2d(planes, weight)[:, 0].numpy().transpose(1, 2, 0)

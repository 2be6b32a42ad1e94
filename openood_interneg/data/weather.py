"""Weather, as ImageNet-C has it: fog, snow, and drops on the lens."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from openood_interneg.data.blurs import Array, Rng, gaussian_blur, smear, zoomed


def fog(x: Array, rng: Rng, amount: float, decay: float) -> Array:
    """A plasma fractal added, then scaled back to the brightest value."""
    top = x.max()
    cloud = plasma_fractal(x.shape[:2], decay, rng)[..., None]
    return (x + amount * cloud) * (top / (top + amount))


def plasma_fractal(shape: tuple[int, int], decay: float, rng: Rng) -> Array:
    """Diamond-square noise on a torus, cut to `shape`, stretched to [0, 1].

    Each new point is the mean of its four neighbours plus U(-w, w) w, with w divided by `decay`
    at every halving of the grid.
    """
    size = 1 << max(int(max(shape) - 1).bit_length(), 1)
    field = np.zeros((size, size))
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2

        def around(total: Array, wobble: float = wobble) -> Array:
            return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

        corners = field[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = around(pairs + np.roll(pairs, -1, 1))  # squares' centres
        centres = field[half::step, half::step]
        beside = centres + np.roll(centres, 1, 0)  # above and below the points on rows of corners
        field[::step, half::step] = around(beside + corners + np.roll(corners, -1, 1))
        beside = centres + np.roll(centres, 1, 1)
        field[half::step, ::step] = around(beside + corners + np.roll(corners, -1, 0))
        step, wobble = half, wobble / decay
    field -= field.min()
    return (field / field.max())[: shape[0], : shape[1]].astype(np.float32)


def snow(
    x: Array,
    rng: Rng,
    mean: float,
    scale: float,
    zoom: float,
    floor: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Array:
    """Thresholded, enlarged and smeared noise as flakes, over a whitened image."""
    flakes = zoomed(rng.normal(mean, scale, x.shape[:2])[..., None], zoom)[..., 0]
    flakes[flakes < floor] = 0
    flakes = np.uint8(np.clip(flakes, 0, 1) * 255) / np.float32(255)
    flakes = smear(flakes[..., None], radius, sigma, rng.uniform(-135, -45))
    grey = (x @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    x = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return x + flakes + np.rot90(flakes, 2)


def spatter(
    x: Array,
    rng: Rng,
    mean: float,
    scale: float,
    sigma: float,
    floor: float,
    strength: float,
    mud: int,
) -> Array:
    """Drops of water (severities 1 to 3) or splashes of mud (4 and 5)."""
    liquid = gaussian_blur(rng.normal(mean, scale, x.shape[:2]), rng, sigma)
    liquid[liquid < floor] = 0
    if mud:
        mask = gaussian_blur((liquid > floor).astype(np.float64), rng, strength)
        mask[mask < 0.8] = 0
        return x * (1 - mask[..., None]) + np.array([63, 42, 20]) / 255 * mask[..., None]
    liquid = np.floor(np.clip(liquid, 0, 1) * 255)
    slope = np.abs(ndimage.sobel(liquid, 0)) + np.abs(ndimage.sobel(liquid, 1))
    strong = ndimage.label(slope > 50, np.ones((3, 3)))[0]
    edges = np.isin(strong, np.unique(strong[slope > 150])) & (strong > 0)
    near = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(x.shape[:2], 20.0)
    near = ndimage.uniform_filter(np.minimum(near, 20), 3, mode="mirror")
    near = np.floor(np.clip(near, 0, 20) + 1e-6)  # running sums leave a little less than 20
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    depth = np.clip(ndimage.correlate(_equalised(near), relief, mode="mirror"), 0, 255)
    drops = liquid * ndimage.uniform_filter(depth, 3, mode="mirror")
    drops = drops / max(drops.max(), 1e-12) * strength
    return x + drops[..., None] * (np.array([175, 238, 238]) / 255)


def _equalised(x: Array) -> Array:
    """Histogram equalisation of whole numbers 0..255."""
    counts = np.bincount(x.astype(np.int64).ravel(), minlength=256)
    cumulative = counts.cumsum()
    first = counts[np.flatnonzero(counts)[0]]
    spread = max(x.size - first, 1)
    table = np.round(np.clip(cumulative - first, 0, None) / spread * 255)
    return table[x.astype(np.int64)]

"""Corruptions: the right strength, and the same pixels every time."""

import numpy as np
import pytest
from scipy import ndimage

from openood_interneg.data.blurs import defocus_blur, gaussian_blur, smear
from openood_interneg.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    brightness,
    contrast,
    corrupt,
    saturate,
)
from openood_interneg.data.weather import fog, plasma_fractal


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption(pixels, kind):
    distances = []
    for severity in SEVERITIES:
        view = corrupt(pixels, f"{kind}-{severity}", 0, 5)
        assert view.shape == pixels.shape
        assert view.dtype == np.float32
        assert np.isfinite(view).all() and view.min() >= 0 and view.max() <= 1
        np.testing.assert_array_equal(view, corrupt(pixels, f"{kind}-{severity}", 0, 5))
        distances.append(np.abs(view - pixels).mean())
    assert min(distances) > 1e-3
    # ImageNet-C's steps are not all monotone (saturate turns, elastic changes its scale).
    if kind not in ("saturate", "elastic_transform", "spatter", "snow", "glass_blur"):
        assert distances[4] > distances[0]


@pytest.mark.parametrize("kind", ["fog", "motion_blur", "snow", "gaussian_noise", "glass_blur"])
def test_random_ones_depend_on_seed_and_key(pixels, kind):
    one = corrupt(pixels, f"{kind}-2", 0, 5)
    assert np.abs(one - corrupt(pixels, f"{kind}-2", 0, 6)).max() > 0.01
    assert np.abs(one - corrupt(pixels, f"{kind}-2", 1, 5)).max() > 0.01


def test_any_int64_is_a_key(pixels):
    keys = (-1, -2, 0, 2**63 - 1, 2**63 - 2, -(2**63))
    made = [corrupt(pixels, "gaussian_noise-1", 0, key).tobytes() for key in keys]
    assert len(set(made)) == len(keys)


def hsv(x):
    """HSV in float64 by the textbook, for one pixel at a time."""
    import colorsys

    return np.array([[colorsys.rgb_to_hsv(*p) for p in row] for row in x.astype(np.float64)])


def rgb(x):
    import colorsys

    return np.array([[colorsys.hsv_to_rgb(*p) for p in row] for row in x])


def test_brightness_is_a_shift_of_v(pixels):
    expected = hsv(pixels)
    expected[..., 2] = np.clip(expected[..., 2] + 0.2, 0, 1)
    np.testing.assert_allclose(brightness(pixels, None, 0.2), rgb(expected), atol=1e-5)


@pytest.mark.parametrize(("scale", "offset"), [(0.3, 0), (2, 0), (20, 0.2)])
def test_saturate_is_a_map_of_s(pixels, scale, offset):
    expected = hsv(pixels)
    expected[..., 1] = np.clip(expected[..., 1] * scale + offset, 0, 1)
    np.testing.assert_allclose(saturate(pixels, None, scale, offset), rgb(expected), atol=1e-5)


def test_contrast_keeps_means(pixels):
    view = contrast(pixels, None, 0.3)
    np.testing.assert_allclose(view.mean((0, 1)), pixels.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(view.std((0, 1)), 0.3 * pixels.std((0, 1)), atol=1e-5)


def test_defocus_against_a_direct_convolution(pixels):
    line = np.arange(-8, 9)
    disc = (line[:, None] ** 2 + line**2 <= 9).astype(float)
    rim = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * 0.1**2))
    rim /= rim.sum()
    kernel = ndimage.correlate(disc / disc.sum(), np.outer(rim, rim), mode="mirror")
    expected = [
        ndimage.correlate(pixels[..., c].astype(float), kernel, mode="mirror") for c in range(3)
    ]
    np.testing.assert_allclose(defocus_blur(pixels, None, 3, 0.1), np.stack(expected, 2), atol=1e-5)


def test_gaussian_blur_leaves_channels_apart(pixels):
    view = gaussian_blur(pixels, None, 2)
    for c in range(3):
        expected = ndimage.gaussian_filter(pixels[..., c], 2, mode="nearest")
        np.testing.assert_allclose(view[..., c], expected, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 30, -45, 90, -135])
def test_motion_blur_by_loops(pixels, angle):
    view = smear(pixels, 4, 2.0, angle)
    weights = np.exp(-(np.arange(9) ** 2) / 8)
    weights /= weights.sum()
    for row, column in ((0, 0), (31, 17), (63, 40)):
        expected = np.zeros(3)
        for step, weight in enumerate(weights):
            down = int(np.ceil(step * np.sin(np.deg2rad(angle)) - 0.5))
            right = int(np.ceil(step * np.cos(np.deg2rad(angle)) - 0.5))
            at = np.clip([row + down, column + right], 0, 63)
            expected += weight * pixels[at[0], at[1]]
        np.testing.assert_allclose(view[row, column], expected, atol=1e-5)


def test_plasma_is_smooth_noise_in_unit_range():
    rng = np.random.default_rng(0)
    cloud = plasma_fractal((60, 70), 2.0, rng)
    assert cloud.shape == (60, 70)
    assert cloud.min() >= 0 and cloud.max() <= 1 and cloud.std() > 0.05
    # Neighbours agree far better than pixels at a distance; slower decay is rougher.
    steps = [np.abs(cloud - np.roll(cloud, k, 1))[:, 20:].mean() for k in (1, 16)]
    assert steps[0] < 0.5 * steps[1]
    rough = plasma_fractal((60, 70), 1.4, np.random.default_rng(0))
    assert np.abs(np.diff(rough)).mean() > np.abs(np.diff(cloud)).mean()


def test_fog_keeps_the_brightest_value(pixels):
    view = fog(pixels, np.random.default_rng(1), 1.5, 2)
    assert view.max() <= pixels.max() + 1e-6
    assert view.std() < 2 * pixels.std()


@pytest.mark.parametrize("size", [8, 9])
def test_tiny_pictures(size):
    x = np.random.default_rng(0).random((size, size, 3)).astype(np.float32)
    for kind in CORRUPTIONS:
        assert corrupt(x, f"{kind}-5", 0, 1).shape == x.shape

"""Views of an image: the right sets, and the same pixels every time."""

import pickle

import numpy as np
import pytest
from PIL import Image

from openood_interneg.data.corruptions import (
    CORRUPTIONS,
    ViewError,
)
from openood_interneg.data.views import ViewMaker, view_names


@pytest.fixture(scope="module")
def image(pixels):
    return Image.fromarray(np.uint8(pixels * 255))


def test_named_sets():
    small, whole = view_names("recommended13"), view_names("all91")
    assert (len(small), len(whole)) == (13, 91)
    assert small[0] == whole[0] == "original"
    assert set(small) < set(whole)
    assert len(CORRUPTIONS) == 18
    assert {v.rpartition("-")[2] for v in small[1:]} == {"1", "2"}
    with pytest.raises(ViewError, match="recommended13"):
        view_names("some")


def test_contrast_hits_the_levels_of_a_computation_in_float64():
    rng = np.random.default_rng(0)
    levels = np.clip(rng.normal(rng.uniform(60, 200), 50, (224, 224, 3)), 0, 255).astype(np.uint8)
    exact = levels / 255.0
    mean = exact.mean((0, 1), keepdims=True)
    expected = np.uint8(np.clip((exact - mean) * 0.4 + mean, 0, 1) * 255)
    view = ViewMaker(("contrast-1",), jpeg=0)(Image.fromarray(levels), 0)[0]
    np.testing.assert_array_equal(np.asarray(view), expected)


def test_maker_keeps_the_original_and_crops_the_rest():
    image = Image.fromarray(np.uint8(np.random.default_rng(0).integers(0, 255, (90, 120, 3))))
    made = ViewMaker(("original", "brightness-1", "pixelate-2"), size=48)(image, 3)
    assert [view.size for view in made] == [(120, 90), (48, 48), (48, 48)]
    assert np.array_equal(np.asarray(made[0]), np.asarray(image))
    assert all(view.mode == "RGB" for view in made)
    assert ViewMaker(("fog-1",), size=0)(image, 3)[0].size == (120, 90)
    assert ViewMaker(("fog-1",), size=16)(image.convert("L"), 3)[0].mode == "RGB"


def test_views_do_not_depend_on_each_other_or_on_order(image):
    whole = ViewMaker(view_names("recommended13"), size=64)(image, 11)
    for place in (3, 8):
        name = view_names("recommended13")[place]
        alone = ViewMaker((name,), size=64)(image, 11)[0]
        assert np.array_equal(np.asarray(alone), np.asarray(whole[place]))


def test_maker_is_picklable(image):
    maker = ViewMaker(view_names("recommended13"), seed=4)
    again = pickle.loads(pickle.dumps(maker))
    assert again == maker
    one, two = (m(image, 2)[4] for m in (maker, again))
    assert np.array_equal(np.asarray(one), np.asarray(two))


def test_compression_is_what_the_files_had(image):
    plain, packed = (ViewMaker(("fog-2",), size=64, jpeg=q)(image, 2)[0] for q in (0, 85))
    difference = np.abs(np.asarray(plain, float) - np.asarray(packed, float))
    assert 0 < difference.mean() < 12


@pytest.mark.parametrize("name", ["frost-1", "fog-6", "fog", "fog-0", ""])
def test_unknown_views(name):
    with pytest.raises(ViewError, match="severity"):
        ViewMaker((name,))

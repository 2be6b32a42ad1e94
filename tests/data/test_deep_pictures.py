"""Pictures of 10, 12 and 14 bits in 16."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.images import ImageError
from openood_interneg.settings import SettingsError

RAMP = np.linspace(0, 1, 1200).reshape(30, 40)
GREY = RAMP * 255


def deep(bits: int) -> np.ndarray:
    return np.rint(RAMP * (2**bits - 1)).astype(np.uint16)


def tiff(values: np.ndarray, top: int | None) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if top is not None:
        tags[281] = top
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def off(image: Image.Image) -> float:
    return float(np.abs(np.asarray(image)[..., 0] - GREY).max())


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_that_a_tiff_tells_are_used(bits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert off(as_image(tiff(deep(bits), 2**bits - 1))) <= 1


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: tiff(v, None), Image.fromarray])
def test_a_12_bit_picture_in_16_bits_is_warned_of_and_read_by_its_bits(wrap):
    with pytest.warns(UserWarning, match=r"no pixel above 4095.*ImageLimits\(bits=12\)"):
        dark = as_image(wrap(deep(12)))
    assert np.asarray(dark).max() == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert off(as_image(wrap(deep(12)), ImageLimits(bits=12))) <= 1
        assert off(as_image(wrap(deep(16)))) <= 1
        as_image(wrap(np.zeros((4, 4), np.uint16)))


def test_pixels_beyond_the_bits_and_bits_that_cannot_be():
    with pytest.raises(ImageError, match="pixels up to 65535, and 12 bits"):
        as_image(deep(16), ImageLimits(bits=12))
    with pytest.raises(SettingsError, match="bits is 17"):
        ImageLimits(bits=17)

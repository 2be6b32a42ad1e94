"""Input from strangers, row by row: what comes in, and the documented way in which it ends."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from drawn_world import CLASSES, WORDS, fitted, plain, stream_files, world
from PIL import Image

from openood_interneg.data.any_image import ImageLimits, as_image, open_image
from openood_interneg.data.classnames import ClassNameError
from openood_interneg.data.images import ImageError, read_rgb
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError


def picture(size=(40, 30)) -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 6, y * 8, (x + y) * 3], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height) -> bytes:
    """A PNG that says it is large, with a few bytes of pixels."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def deep() -> bytes:
    values = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    return encoded(Image.fromarray(values), "PNG")


def animated() -> bytes:
    frames = [picture().point(lambda v, k=k: v // k) for k in (1, 2, 4)]
    return encoded(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])


JPEG = encoded(picture(), "JPEG")
FINE = {
    "plain": encoded(picture(), "PNG"),
    "jpeg": JPEG,
    "grey": encoded(picture().convert("L"), "PNG"),
    "one bit": encoded(picture().convert("1"), "PNG"),
    "palette": encoded(picture().convert("P"), "GIF"),
    "cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "transparent": encoded(picture().convert("RGBA"), "PNG"),
    "16 bit": deep(),
    "float": encoded(Image.fromarray(np.linspace(0, 1, 1200, dtype="f4").reshape(30, 40)), "TIFF"),
    "animated": animated(),
    "turned": turned(),
    "one pixel": encoded(picture((1, 1)), "PNG"),
    "strip": encoded(picture((60, 1)), "PNG"),
    "wrong ending": encoded(picture(), "BMP"),
    "broken exif": encoded(picture(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"),
}
BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"no image at all\n", "it is no image in a format"),
    "html": (b"<html><body>404</body></html>", "it is no image in a format"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "Truncated File Read"),
    "truncated png": (FINE["plain"][:-60], ""),
    "header only": (JPEG[:20], ""),
    "bomb": (png_header(60_000, 60_000), "pixels"),
    "large": (png_header(12_000, 8_000), "12000 x 8000 pixels; the limit"),
    "cut bomb": (png_header(5_000, 5_000), ""),
    "long strip": (encoded(picture((3000, 1)), "PNG"), "a strip"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "it is no image in a format",
    ),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is no image in a format"),
    "float nan": (
        encoded(Image.fromarray(np.full((9, 9), np.nan, dtype="f4")), "TIFF"),
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_a_readable_file_gives_rgb_and_a_score(name, tmp_path):
    path = tmp_path / ("photo.jpg" if name == "wrong ending" else f"{name}.png")
    path.write_bytes(FINE[name])
    image = open_image(path)
    assert image.mode == "RGB"
    score = fitted().score(path)
    assert score.shape == (1,) and 0 <= score[0] <= 1


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_leaves_the_stream_unharmed(name, tmp_path):
    content, reason = BAD[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=f"cannot read the image .*{name}.*{reason}"):
            open_image(path)
        around = stream_files()[:4]
        good = [e.score for b in fitted().stream(around) for e in b]
        mixed = [e for b in fitted().stream([*around[:2], path, *around[2:]]) for e in b]
    assert reason in mixed[2].error
    assert [e.score for e in mixed if e.error is None] == pytest.approx(good, abs=1e-5)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match=r"none\.png"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="no file in the folder"):
        fitted().score(tmp_path)


def test_pixels_of_unusual_files(tmp_path):
    def pixels(name, **reading):
        path = tmp_path / "x.png"
        path.write_bytes(FINE[name])
        return np.asarray(open_image(path, ImageLimits(**reading))).astype(int)

    upright = np.asarray(picture()).astype(int)
    assert (pixels("turned") == upright).all()
    assert pixels("turned", exif=False).shape == (40, 30, 3)
    assert (pixels("broken exif") == upright).all()
    assert (pixels("animated") == upright).all()  # the first frame
    grey = np.linspace(0, 255, 1200).reshape(30, 40)
    for name in ("16 bit", "float"):
        assert np.abs(pixels(name) - grey[..., None]).max() <= 1
    assert (pixels("transparent") == upright).all()
    assert np.abs(pixels("cmyk") - upright).mean() < 30
    with pytest.raises(ImageError, match="limit is 100"):
        pixels("plain", max_pixels=100)
    with pytest.raises(ImageError, match="the limit is 10"):
        pixels("plain", max_bytes=10)


def test_benchmarks_read_as_openood_does(tmp_path):
    for name, content in FINE.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(np.asarray(read_rgb(path)), wanted)


U8 = np.zeros((8, 8, 3), np.uint8)
WRONG = {
    "nan array": (np.full((8, 8, 3), np.nan), "NaN or infinity"),
    "inf tensor": (torch.full((3, 8, 8), float("inf")), "NaN or infinity"),
    "normalised tensor": (torch.randn(3, 8, 8), "floats go from 0 to 1"),
    "floats to 255": (np.full((8, 8, 3), 255.0), "floats go from 0 to 1"),
    "int64 array": (U8.astype(np.int64), "holds int64"),
    "bool tensor": (torch.zeros(3, 8, 8, dtype=torch.bool), "holds bool"),
    "complex array": (U8.astype(complex), "holds complex128"),
    "object array": (U8.astype(object), "holds object"),
    "channels first array": (np.zeros((3, 8, 8), np.uint8), "an image is .H, W. or .H, W, 3."),
    "channels last tensor": (torch.zeros(8, 8, 3), "an image is .H, W. or .3, H, W."),
    "vector": (np.zeros(8, np.uint8), "shape"),
    "five axes": (torch.zeros(1, 1, 3, 8, 8), "shape"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), "shape"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels"),
    "sparse tensor": (torch.zeros(8, 8).to_sparse(), "cannot be read"),
    "meta tensor": (torch.zeros(3, 8, 8, device="meta"), "cannot be read"),
    "a number": ([3], "not int"),
    "none": ([None], "not NoneType"),
    "not even a sequence": (3.5, "not as float"),
    "bytes of a path": ([object()], "not object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_and_tensors_are_refused(name):
    value, message = WRONG[name]
    detector = fitted()
    with pytest.raises(ImageError, match=message):
        detector.score(value)
    assert detector.position == 0 and detector.bank_size == 0


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.float64),
        np.zeros((8, 8, 3), np.float16),
        torch.zeros(8, 8),
        torch.zeros(1, 8, 8),
        torch.zeros(4, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.bfloat16),
        torch.zeros(3, 8, 8, requires_grad=True),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ],
)
def test_arrays_and_tensors_that_are_images(value):
    assert as_image(value).size == (8, 8)
    assert not np.asarray(as_image(value)).any()


def test_features_that_are_wrong_are_refused():
    detector = fitted()
    size = detector.space.labels.shape[1]
    for features, message in (
        (torch.full((2, size), float("nan")), "NaN or infinity"),
        (torch.ones(2, size + 1), "shape"),
        (torch.ones(size), "shape"),
    ):
        with pytest.raises(DetectorError, match=message):
            detector.score_features(features)
    assert detector.position == 0 and detector.bank_size == 0


def test_a_nan_never_enters_the_bank_and_never_comes_out():
    detector = fitted()
    detector._detector.inverter = lambda h, ids: torch.full_like(h, float("nan"))
    scores = detector.score(stream_files())
    assert np.isfinite(scores).all() and detector.bank_size == 0


def id_of(names):
    return {
        name: sorted((world() / "id" / CLASSES[i % 4]).iterdir()) for i, name in enumerate(names)
    }


ODD = ['a "quoted" {name}', "{}", "{0} {x!r}", "100 % \\n", "🐟 poisson", "w" * 500]


@pytest.mark.parametrize("name", ODD)
def test_odd_class_names_are_taken_as_they_are(name):
    detector = plain(gamma=0.0).fit([name, "tree"], id_of([name, "tree"]))
    assert detector.predict(stream_files()[1])[0][0] in (name, "tree")
    assert detector.explain(stream_files()[0]).labels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class names"),
        (["star", ""], "class name 1 is ''"),
        (["star", "  "], "class name 1"),
        (["star", None], "class name 1 is None"),
        (["star", "Star "], "class names 0 and 1"),
        (["star", "Unknown"], "what images of no class are called"),
    ],
)
def test_class_names_that_cannot_work(names, message):
    with pytest.raises(ClassNameError, match=message):
        plain().fit(names, id_of(["star"]))


def test_names_that_the_tokenizer_cannot_tell_apart():
    names = ["very " * 100 + "old", "very " * 100 + "new"]
    with pytest.raises(ClassNameError, match="CLIP sees no difference"):
        plain().fit(names, id_of(names))


def test_small_extremes(tmp_path):
    one = plain(gamma=0.5).fit(["star"], {"star": stream_files()[1]})
    assert one.predict(stream_files()[1])[0][0] in ("star", "unknown")
    assert fitted(batch_size=1).score(stream_files()[:3]).shape == (3,)

    no_bank = fitted(bank_capacity=0)  # K = 0
    no_bank.score(stream_files())
    assert no_bank.bank_size == 0
    np.testing.assert_allclose(
        no_bank.score(stream_files()), fitted(bank="none").score(stream_files())
    )

    tiny = fitted(num_negatives=10_000)  # corpus smaller than M: all that pass
    assert 0 < len(tiny.space.negatives) <= len(WORDS)

    with pytest.warns(UserWarning, match="every image scores 1"):
        nothing = fitted(num_negatives=0)  # M = 0
    assert (nothing.score(stream_files()) == 1).all() and nothing.bank_size == 0

    (tmp_path / "near.txt").write_text("\n".join(CLASSES) + "\n")
    with pytest.warns(UserWarning, match="no text of the corpus"):
        nothing = fitted(corpus=str(tmp_path / "near.txt"))  # nothing passes
    assert (nothing.score(stream_files()) == 1).all()

    with pytest.raises(SettingsError, match="groups is 1000"):
        fitted(groups=1000)


def test_id_images_that_cannot_be_read(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(ImageError, match=r"an ID image cannot be used.*bad\.png"):
        plain().fit(["star"], {"star": [bad]})
    for kind in CLASSES:
        (tmp_path / "empty" / kind).mkdir(parents=True)
    with pytest.raises(DetectorError, match="no ID images"):
        plain().fit(CLASSES, tmp_path / "empty")
    with pytest.raises(DetectorError, match="no folder"):
        plain().fit(CLASSES, tmp_path / "none")


def test_truncated_files_are_refused_whatever_pillow_was_told(tmp_path, monkeypatch):
    """Importing OpenOOD makes Pillow accept half an image, for the whole process."""
    from PIL import ImageFile

    from openood_interneg.data.images import read_rgb

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    for read in (read_rgb, open_image):
        with pytest.raises(ImageError, match=r"half\.png"):
            read(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True

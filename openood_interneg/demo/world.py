"""The miniature world: 64 x 64 drawings of simple objects. `benchmark` writes them to disk.

In distribution are ten kinds of object (`ID_KINDS`). Near OOD are other objects, several of which
look like one of the ten (bus and car, parachute and umbrella, gear and star). Far OOD are
`textures`, `letters` and `noise`. Every image has its own random colours, size, place, rotation and
slant, a background, and often something in front of the object, so a good classifier still errs.

An image depends on nothing but the generator passed to `draw`. `image_rng` derives one for each
(seed, stream, index); the streams of the benchmark and of the training pool are different, so no
seed can make the checkpoint's training images reappear in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .shapes import SHAPES, Colour, Pen

ID_KINDS = (
    *("star", "heart", "house", "tree", "fish"),
    *("car", "key", "mushroom", "umbrella", "mug"),
)
NEAR_KINDS = tuple(kind for kind in SHAPES if kind not in ID_KINDS)
# The checkpoint has never seen these; it has seen the ID kinds and the other near kinds, as a large
# CLIP has seen many more things than the ID classes of a benchmark.
HELD_OUT_KINDS = (
    *("train", "barn", "whale", "wrench", "parachute", "jellyfish"),
    *("teapot", "snowflake", "gear", "lollipop", "strawberry", "padlock"),
)
FAR_KINDS = {
    "textures": ("stripes", "checks", "dots", "gradient", "waves", "rings", "bricks"),
    "letters": ("capital", "small", "digit"),
    "noise": ("white", "smooth"),
}

STREAMS = ("train", "test", "othershapes", "textures", "letters", "noise", "pool", "probe")
OVERSAMPLING = 3


def image_rng(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of one image: a function of (seed, stream, index) and nothing else."""
    entropy = np.random.SeedSequence([seed, STREAMS.index(stream), index])
    return np.random.Generator(np.random.Philox(entropy))


def draw(kind: str, rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw one image.

    Args:
        kind: a name in `ID_KINDS`, `NEAR_KINDS` or one of the tuples in `FAR_KINDS`.
        rng: the only source of chance; it is advanced.
        size: width and height in pixels.

    Returns:
        An RGB image of size x size.
    """
    if kind in SHAPES:
        pixels = _scene(rng, size, lambda ground: _object_layer(kind, rng, size, ground))
    elif kind in FAR_KINDS["letters"]:
        pixels = _scene(rng, size, lambda ground: _letter_layer(kind, rng, size, ground))
    elif kind in FAR_KINDS["textures"]:
        ground = _colour(rng)
        pixels = _mix(_pattern(kind, rng, size), ground, _colour_unlike(rng, ground, 0.5))
    elif kind in FAR_KINDS["noise"]:
        cells = size if kind == "white" else int(rng.integers(3, 20))
        pixels = np.stack([_clouds(rng, size, cells) for _ in range(3)], axis=-1)
    else:
        raise ValueError(f"unknown kind {kind!r}")
    return _photograph(pixels, rng)


# ---------------------------------------------------------------- colours, patterns, the camera


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A random colour, pale, grey or vivid: float64 of shape (3,) in [0, 1]."""
    hue, saturation, value = rng.random(), rng.random() ** 0.7, 0.1 + 0.9 * rng.random()
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - wheel))


def _colour_unlike(rng: np.random.Generator, other: np.ndarray, distance: float) -> np.ndarray:
    """A random colour at least `distance` away from `other` (largest possible: about 1.7)."""
    while True:
        colour = _colour(rng)
        if np.linalg.norm(colour - other) >= distance:
            return colour


def _bytes(colour: np.ndarray) -> Colour:
    red, green, blue = (round(255 * float(c)) for c in colour)
    return red, green, blue


def _mix(field: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Paint a field (size, size) in [0, 1] with two colours: (size, size, 3) in [0, 1]."""
    return first + field[..., None] * (second - first)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A random field (size, size) in [0, 1], smooth on the scale of size / cells pixels."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.clip(smooth, 0, 1)


def _pattern(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """A regular pattern at a random angle and scale: (size, size) in [0, 1]."""
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(0.18, 0.6)
    y, x = np.mgrid[0:size, 0:size] * (2 / size) - 1
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    x, y = x + rng.uniform(-1, 1), y + rng.uniform(-1, 1)
    wave = 2 * np.pi / pitch
    if kind == "gradient":
        ramp = x if rng.random() < 0.5 else np.hypot(x, y)
        return (ramp - ramp.min()) / np.ptp(ramp)
    if kind == "stripes":
        field = np.sin(wave * x)
    elif kind == "checks":
        field = np.sign(np.sin(wave * x) * np.sin(wave * y))
    elif kind == "dots":
        field = np.cos(wave * x) + np.cos(wave * y) - rng.uniform(0.2, 1.2)
    elif kind == "waves":
        field = np.sin(wave * (y + 0.4 * pitch * np.sin(wave * rng.uniform(0.4, 0.8) * x)))
    elif kind == "rings":
        field = np.sin(wave * np.hypot(x, y))
    elif kind == "bricks":
        course = np.floor(y / pitch)
        joint_y, joint_x = y / pitch - course, (x / pitch / 2 + course / 2) % 1
        field = np.where((joint_y < 0.18) | (joint_x < 0.09), -1.0, 1.0)
    else:
        raise ValueError(f"unknown pattern {kind!r}")
    edge = rng.uniform(0.5, 4)
    return 0.5 + 0.5 * np.clip(edge * field, -1, 1)


def _background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (size, size, 3) in [0, 1] and the main colour of a background."""
    ground = _colour(rng)
    other = ground + rng.uniform(0.1, 0.55) * (_colour(rng) - ground)
    style = rng.choice(
        ["flat", "gradient", "clouds", "stripes", "checks"], p=[0.2, 0.25, 0.35, 0.1, 0.1]
    )
    if style == "flat":
        field = np.zeros((size, size))
    elif style == "clouds":
        field = _clouds(rng, size, int(rng.integers(3, 12)))
    else:
        field = _pattern(str(style), rng, size)
    return _mix(field, ground, other), ground


def _scene(
    rng: np.random.Generator, size: int, layer: Callable[[np.ndarray], Image.Image]
) -> np.ndarray:
    """Put `layer(ground colour)`, an RGBA image, over a background: (size, size, 3) in [0, 1]."""
    pixels, ground = _background(rng, size)
    rgba = np.asarray(layer(ground), dtype=np.float64) / 255
    alpha = rgba[..., 3:] * rng.uniform(0.7, 1.0)
    return pixels + alpha * (rgba[..., :3] - pixels)


def _photograph(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """What a cheap camera adds: blur, wrong exposure, grain. The same for every kind of image."""
    image = Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    values = np.asarray(image, dtype=np.float64) / 255
    values = 0.5 + rng.uniform(0.6, 1.1) * (values - 0.5) + rng.uniform(-0.12, 0.12)
    values = values + rng.uniform(0.01, 0.10) * rng.standard_normal(values.shape)
    return Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))


# ---------------------------------------------------------------- what is in front


def _placement(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """A random 2x3 matrix from shape units to pixels: size, stretch, slant, turn, place, mirror."""
    scale = rng.uniform(0.26, 0.46) * pixels
    turn, slant = rng.normal(0, 0.3), rng.uniform(-0.2, 0.2)
    stretch = rng.uniform(0.85, 1.18)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.array([[mirror * stretch, slant], [0, 1 / stretch]])
    # Up to a fifth of the object may lie outside the frame.
    room = max(pixels / 2 - 0.8 * scale, 0)
    return np.column_stack([linear, pixels / 2 + rng.uniform(-room, room, 2)])


def _object_layer(
    kind: str, rng: np.random.Generator, size: int, ground: np.ndarray
) -> Image.Image:
    large = size * OVERSAMPLING
    layer = Image.new("RGBA", (large, large))
    main = _colour_unlike(rng, ground, 0.3)
    accent = _colour_unlike(rng, main, 0.25)
    detail = np.full(3, rng.uniform(0.7, 1.0) if main.mean() < 0.45 else rng.uniform(0, 0.25))
    canvas = ImageDraw.Draw(layer)
    matrix = _placement(rng, large)
    SHAPES[kind](Pen(canvas, matrix, rng, _bytes(main), _bytes(accent), _bytes(detail)))
    if rng.random() < 0.45:
        _occlude(canvas, matrix, rng)
    return layer.reduce(OVERSAMPLING)


def _occlude(canvas: ImageDraw.ImageDraw, matrix: np.ndarray, rng: np.random.Generator) -> None:
    """Put one or two blots or bars of a random colour before the object, or holes into it."""
    for _ in range(int(rng.integers(1, 3))):
        colour = _bytes(_colour(rng))
        pen = Pen(canvas, matrix, rng, colour, colour, colour)
        fill = None if rng.random() < 0.3 else colour
        x, y = rng.uniform(-0.9, 0.9, 2).tolist()
        if rng.random() < 0.6:
            pen.oval(x, y, pen.vary(0.15, 0.45), pen.vary(0.15, 0.45), fill)
        else:
            angle, reach = rng.uniform(0, np.pi), 1.5
            dx, dy = reach * np.cos(angle), reach * np.sin(angle)
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], pen.vary(0.08, 0.3), fill)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _letter_layer(
    kind: str, rng: np.random.Generator, size: int, ground: np.ndarray
) -> Image.Image:
    alphabet = {
        "capital": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "small": "abcdefghijklmnopqrstuvwxyz",
        "digit": "0123456789",
    }[kind]
    text = "".join(rng.choice(list(alphabet), int(rng.integers(1, 4))))
    large = size * OVERSAMPLING
    height = int(rng.uniform(0.55, 0.95) * large / len(text) ** 0.5)
    mask = Image.new("L", (large, large))
    centre = tuple((large / 2 + rng.uniform(-0.1, 0.1, 2) * large).tolist())
    ImageDraw.Draw(mask).text(centre, text, fill=255, font=_font(height), anchor="mm")
    mask = mask.rotate(float(rng.normal(0, 15)), Image.Resampling.BILINEAR)
    layer = Image.new("RGBA", (large, large), _bytes(_colour_unlike(rng, ground, 0.25)))
    layer.putalpha(mask)
    return layer.reduce(OVERSAMPLING)

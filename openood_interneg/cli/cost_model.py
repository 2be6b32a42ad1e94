"""What a run over N images takes, from figures of each stage: pure arithmetic.

A batch of a stream costs what one costs whatever its size, plus so much per image: an inversion
reads the tower's weights in every step (and, on a GPU, launches the same kernels) for one image
or many. So time per inverted image falls with the gated share, and with it the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

STORED_PER_IMAGE = 8  # bytes of a score and a key beside the features
SHARES = (0.0, 0.1, 0.5, 1.0)

CostedMethod = Literal["interneg", "rationeg"]


@dataclass(frozen=True)
class Affine:
    """Seconds of a pass over n images.

    Attributes:
        fixed: seconds whatever n is.
        each: seconds per image.
    """

    fixed: float
    each: float

    def passes(self, images: float, most: int) -> float:
        """Seconds of as many passes as n images need, at most so many images in each.

        A batch with fewer than one image on average needs a pass that share of the times.
        """
        return min(images, math.ceil(images / most)) * self.fixed + images * self.each


def affine_through(few: int, seconds_few: float, many: int, seconds_many: float) -> Affine:
    """The line through two timings; where noise gives one part below 0, all is the other's."""
    each = max((seconds_many - seconds_few) / (many - few), 0.0)
    fixed = seconds_few - few * each
    return Affine(fixed, each) if fixed >= 0 else Affine(0.0, seconds_many / many)


@dataclass(frozen=True)
class Figures:
    """What a device takes for each stage, at one backbone, precision and set of templates.

    Attributes:
        device: its name, with the instruction set of a CPU.
        origin: how the figures came about, in words.
        batch: images per step of a stream.
        decode: seconds per JPEG of 500 x 375, preprocessing included, in one process.
        encode: seconds per image.
        invert: an inversion pass.
        chunk: most images that are inverted at once.
        score: seconds in which InterNeg scores a batch.
        rescore: seconds beyond it where the bank took images of that batch.
        remember: seconds of a batch of RatioNeg, and per image that it remembers.
        dim: D.
        weights: bytes of the model.
        working: bytes beyond it on the device, at most.
    """

    device: str
    origin: str
    batch: int
    decode: float
    encode: float
    invert: Affine
    chunk: int
    score: float
    rescore: float
    remember: Affine
    dim: int
    weights: int
    working: int

    def step(self, method: CostedMethod, share: float) -> tuple[float, float]:
        """Seconds per batch of a stream: of its inversions, and of everything else.

        Args:
            method: interneg inverts the gated images; rationeg inverts none.
            share: of images that are gated, or that RatioNeg remembers, 0 to 1.
        """
        concerned = self.batch * share
        if method == "rationeg":
            return 0.0, self.remember.fixed + concerned * self.remember.each
        again = self.rescore * min(concerned, 1.0)
        return self.invert.passes(concerned, self.chunk), self.score + again


@dataclass(frozen=True)
class Cost:
    """What N images take.

    Attributes:
        encode: seconds of wall time, as are invert and replay.
        invert: of the gated images.
        replay: of the stream itself.
        gated: images inverted.
        features: bytes on disk.
        inversions: bytes on disk.
        memory: bytes on the device.
        shards: files.
    """

    encode: float
    invert: float
    replay: float
    gated: int
    features: int
    inversions: int
    memory: int
    shards: int

    @property
    def seconds(self) -> float:
        """Wall time of everything, one stage after the other."""
        return self.encode + self.invert + self.replay


def predict(
    figures: Figures,
    images: int,
    share: float,
    *,
    method: CostedMethod = "interneg",
    devices: int = 1,
    workers: int = 1,
    shard_rows: int = 512,
) -> Cost:
    """Cost of N images of which a share is gated (interneg) or remembered (rationeg).

    Encoding and inverting are pure maps: their time is divided by the number of devices. The
    replay of a stream is sequential.

    Args:
        figures: of the stages.
        images: N.
        share: 0 to 1; every batch has it.
        method: whose stream it is.
        devices: accelerators, or machines, that encode and invert side by side.
        workers: decoding processes per device; decoding and encoding overlap, so the slower of
            the two counts.
        shard_rows: images per file.
    """
    invert, replay = figures.step(method, share)
    batches = images / figures.batch
    inverted = round(images * share) if method == "interneg" else 0
    each = max(figures.encode, figures.decode / max(workers, 1))
    return Cost(
        encode=images * each / devices,
        invert=batches * invert / devices,
        replay=batches * replay,
        gated=inverted,
        features=images * (4 * figures.dim + STORED_PER_IMAGE),
        inversions=inverted * (4 * figures.dim + 16),
        memory=figures.weights + figures.working,
        shards=-(-images // shard_rows),
    )

"""What a run over N images takes: time, memory and storage, from measured figures per stage.

Used by `interneg doctor --cost`. The model is a sum of stages, each so many seconds per image:

* decoding and preprocessing, in worker processes beside the model;
* encoding;
* scoring: two reads of C + M + K cosines in the worst case;
* inversion of the gated share of images;
* reading and writing the store.

Encoding and inverting are pure maps: their time is divided by the number of devices. The replay of
a stream is sequential: scoring is not divided, unless several streams run side by side. Figures
are measured here, in some seconds, with random weights of the size asked for.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table

from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.negatives.inversion import CHUNK_BYTES, LiveInverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import device_name
from openood_interneg.vlm.factory import OPENAI_BACKBONES
from openood_interneg.vlm.precision import Precision
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.tokenizers import byte_pairs

BATCH, GATED, REPEATS = 256, 16, 3
STORED_PER_IMAGE = 8  # bytes of a score and a key beside the features


@dataclass(frozen=True)
class Stages:
    """Seconds per image of each stage, and sizes.

    Attributes:
        decode: reading a JPEG of 500 x 375 and preprocessing it, in one process.
        encode, score, invert: on the device; `invert` per inverted image.
        dim: D. weights: bytes of the model. working: bytes beyond it on the device, at most.
    """

    decode: float
    encode: float
    score: float
    invert: float
    dim: int
    weights: int
    working: int


@dataclass(frozen=True)
class Cost:
    """What N images take.

    Attributes:
        encode, invert, replay: seconds of wall time. gated: images inverted.
        features, inversions: bytes on disk. memory: bytes on the device. shards: files.
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
    stages: Stages,
    images: int,
    gated: float,
    *,
    devices: int = 1,
    workers: int = 1,
    shard_rows: int = 512,
) -> Cost:
    """Cost of N images of which a share is gated.

    Args:
        devices: accelerators, or machines, that encode and invert side by side.
        workers: decoding processes per device; decoding and encoding overlap, so the slower of
            the two counts.
    """
    inverted = round(images * gated)
    each = max(stages.encode, stages.decode / max(workers, 1))
    return Cost(
        encode=images * each / devices,
        invert=inverted * stages.invert / devices,
        replay=images * stages.score,
        gated=inverted,
        features=images * (4 * stages.dim + STORED_PER_IMAGE),
        inversions=inverted * (4 * stages.dim + 16),
        memory=stages.weights + stages.working,
        shards=-(-images // shard_rows),
    )


def measure(
    name: str, device: str | torch.device = "cpu", precision: str = "fp32", templates: str = "photo"
) -> Stages:
    """Times the stages here with random weights; takes some seconds, on a CPU up to a minute.

    Raises:
        SettingsError: a backbone that is not one of OpenAI's.
    """
    device = torch.device(device)
    backbone = random_backbone(name, device, precision)
    size, batch = backbone.preprocess.size, 64 if device.type == "cuda" else 4
    pixels = torch.randn(batch, 3, size, size)
    encode = _median(lambda: backbone.encode_image(pixels)) / batch
    prompts = prompt_set(templates)
    live = LiveInverter(backbone.pseudo_prompts(prompts, 1), len(prompts))
    generator = torch.Generator().manual_seed(0)
    classes, mined, capacity = 1000, 2000, 2000
    rows = torch.randn(classes + mined + capacity, backbone.embed_dim, generator=generator)
    unit = F.normalize(rows, dim=1).to(device)
    gated, ids = unit[:GATED].contiguous(), torch.arange(BATCH)
    invert = _median(lambda: live(gated, ids[:GATED])) / GATED
    space = TextSpace(unit[:classes], 100.0, unit[classes:], unit[:classes], unit.new_ones(classes))
    detector = InterNeg(InterNegSettings(bank_capacity=0), live).fit(space)  # M + K texts
    features = unit[:BATCH].contiguous()
    score = 2 * _median(lambda: detector.step(features, ids)) / BATCH
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    texts = 4 * backbone.embed_dim * len(unit)
    return Stages(
        decode=_median(_decoding(backbone.preprocess)),
        encode=encode,
        score=score,
        invert=invert,
        dim=backbone.embed_dim,
        weights=weights,
        working=CHUNK_BYTES + texts + 4 * BATCH * len(unit),
    )


def random_backbone(name: str, device: str | torch.device, precision: str) -> Backbone:
    """A CLIP of a known size with random weights: nothing is downloaded.

    Raises:
        SettingsError: not one of OpenAI's backbones.
    """
    if name not in OPENAI_BACKBONES:
        known = ", ".join(OPENAI_BACKBONES)
        raise SettingsError(f"no size is known of backbone '{name}'; choose one of {known}")
    import logging

    import open_clip

    torch.manual_seed(0)
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that nothing pretrained was loaded
    try:
        model = open_clip.create_model(OPENAI_BACKBONES[name], pretrained=None, precision="fp32")
    finally:
        logging.disable(quiet)
    size = model.visual.image_size
    preprocess = Preprocess(size[0] if isinstance(size, tuple) else size)
    tokenizer = byte_pairs()
    return Backbone(
        model,
        tokenizer,
        preprocess,
        name=name,
        device=device,
        precision=cast(Precision, precision),  # which refuses any other
    )


def _decoding(preprocess: Preprocess) -> Callable[[], object]:
    from PIL import Image

    rng = np.random.Generator(np.random.PCG64(0))
    small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((500, 375)).save(buffer, "JPEG", quality=90)
    transform = preprocess.transform()

    def decode() -> object:
        with Image.open(io.BytesIO(buffer.getvalue())) as image:
            return transform(image.convert("RGB"))

    return decode


def _median(run: Callable[[], object]) -> float:
    times = []
    for turn in range(1 + REPEATS):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if turn:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def cost_table(
    name: str,
    images: int,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    templates: str = "photo",
    devices: int = 1,
    workers: int | None = None,
) -> Table:
    """Measures the stages and lays the prediction out, for four shares of gated images."""
    stages = measure(name, device, precision, templates)
    workers = workers or max((os.cpu_count() or 2) // 2, 1)
    many = "" if devices == 1 else f", {devices} of them"
    table = Table(
        title=f"{images:,} images, {name}, {precision}, {templates}, {device_name(device)}{many}",
        caption=(
            "Measured here with random weights, per image: "
            f"decode {_ms(stages.decode)}, encode {_ms(stages.encode)}, score {_ms(stages.score)}, "
            f"invert {_ms(stages.invert)} (gated ones). Assumed: JPEGs of 500 x 375; {workers} "
            f"decoding process{'' if workers == 1 else 'es'} per device, beside the "
            "encoding; C = 1000, M = K = 2000; every "
            "batch is scored twice; the disk keeps up; encoding and inverting scale with the "
            "devices, the replay of one stream does not. Mining and start are left out: they do "
            "not grow with the images."
        ),
        header_style="bold",
    )
    for column in ("gated", "encode", "invert", "replay", "in all", "store", "memory", "files"):
        table.add_column(column, justify="right")
    for share in (0.0, 0.1, 0.5, 1.0):
        cost = predict(stages, images, share, devices=devices, workers=workers)
        table.add_row(
            f"{share:.0%}",
            *(_time(s) for s in (cost.encode, cost.invert, cost.replay, cost.seconds)),
            _size(cost.features + cost.inversions),
            _size(cost.memory),
            f"{cost.shards:,}",
        )
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _time(seconds: float) -> str:
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"

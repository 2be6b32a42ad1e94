"""Times the stages of a run here, with random weights of the size asked for."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.cli.cost_model import Affine, Figures, affine_through
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.rationeg import RatioNeg, RatioNegSettings
from openood_interneg.negatives.inversion import CHUNK_BYTES, Inverter, LiveInverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import device_name, instruction_set
from openood_interneg.vlm.factory import OPENAI_BACKBONES
from openood_interneg.vlm.precision import Precision
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.tokenizers import byte_pairs

CLASSES, NEGATIVES, CAPACITY, BATCH = 1000, 2000, 2000, 256
RATIO_NEGATIVES, RATIO_SHOTS = 70_000, 2  # M of RatioNeg, and ID images per class
REPEATS, ENOUGH = 3, 4.0  # timings of a stage; no further one after so many seconds
MOST, SHORT = 25, 0.5  # timings of a short stage: as many as take so many seconds


@dataclass(frozen=True)
class Timer:
    """Median seconds of three timings; of fewer where they are long, more where they are short.

    Attributes:
        clock: `time.process_time` with one thread leaves out what else runs on the machine.
    """

    clock: Callable[[], float] = time.perf_counter

    def __call__(self, run: Callable[[], object], *, warm_up: bool = True) -> float:
        """Seconds of a call, the first one not counted if `warm_up`."""
        if warm_up:
            run()
            _wait()
        times: list[float] = []
        while len(times) < MOST and sum(times) < (ENOUGH if len(times) < REPEATS else SHORT):
            start = self.clock()
            run()
            _wait()
            times.append(self.clock() - start)
        return statistics.median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class FullBank:
    """InterNeg with a full bank, and batches of which exactly a share is gated.

    C = 1000, M = K = 2000.

    Args:
        dim: D.
        device: of features and bank.
        inverter: what inverts the gated images.
    """

    def __init__(self, dim: int, device: torch.device, inverter: Inverter):
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(CLASSES + NEGATIVES + CAPACITY, dim, generator=generator)
        self.unit = F.normalize(rows, dim=1).to(device)
        labels = self.unit[:CLASSES]
        proxies = F.normalize(labels + 0.05 * self.unit[-CLASSES:], dim=1)
        space = TextSpace(
            labels=labels,
            logit_scale=100.0,
            negatives=self.unit[CLASSES : CLASSES + NEGATIVES],
            proxies=proxies,
            base=(labels * proxies).sum(1),
        )
        self.detector = InterNeg(InterNegSettings(bank_capacity=CAPACITY), inverter).fit(space)
        self.ids = torch.arange(BATCH)
        self.state = self.detector.state_dict() | {
            "bank.features": self.unit[-CAPACITY:],
            "bank.deviation": torch.linspace(1, -1e9, CAPACITY, device=device),
            "bank.keys": torch.arange(CAPACITY),
        }

    def batch(self, share: float) -> Tensor:
        """(256, D): labels' look-alikes, and `share` of negatives' look-alikes."""
        gated = round(BATCH * share)
        return torch.cat([self.unit[CLASSES : CLASSES + gated], self.unit[: BATCH - gated]])

    def step(self, features: Tensor, gated: int) -> None:
        """One batch from the same full bank."""
        self.detector.load_state_dict(self.state)
        self.detector.step(features, self.ids)
        assert self.detector.inverted == gated, f"{self.detector.inverted} gated, not {gated}"


def measure(
    name: str,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    templates: str = "photo",
    timer: Timer | None = None,
) -> Figures:
    """Times the stages here with random weights; takes less than a minute.

    Args:
        name: one of OpenAI's backbones.
        device: of model and features.
        precision: of the towers.
        templates: prompt set of the inversions.
        timer: by default of wall time.

    Raises:
        SettingsError: a backbone that is not one of OpenAI's.
    """
    seconds = timer or Timer()
    device = torch.device(device)
    gpu = device.type != "cpu"
    backbone = random_backbone(name, device, precision)
    size, batch = backbone.preprocess.size, 64 if gpu else 4
    pixels = torch.randn(batch, 3, size, size)
    with torch.no_grad():
        encode = seconds(lambda: backbone.encode_image(pixels)) / batch
        prompts = prompt_set(templates)
        live = LiveInverter(backbone.pseudo_prompts(prompts, 1), len(prompts))
        chunk = max(CHUNK_BYTES // live.prompts.bytes_per_image, 1)
        # The line of a CPU is straight from 8 images on; a GPU is not busy below some hundred.
        few, many = (16, 256) if gpu else (8, 64)
        many = min(many, max(chunk, few + 1))
        rows = F.normalize(torch.randn(many, backbone.embed_dim), dim=1).to(device)
        ids = torch.arange(many)
        live(rows[:2], ids[:2])  # what is made once is not an inversion's
        times = [
            seconds(lambda n=n: live(rows[:n], ids[:n]), warm_up=gpu)  # type: ignore[misc]
            for n in (few, many)
        ]
        invert = affine_through(few, times[0], many, times[1])
        score, rescore = _interneg(backbone.embed_dim, device, seconds)
        remember = _rationeg(backbone.embed_dim, device, seconds)
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    texts = CLASSES + NEGATIVES + CAPACITY
    return Figures(
        device=device_name(device) if gpu else cpu_name(),
        origin="measured here",
        batch=BATCH,
        decode=seconds(_decoding(backbone.preprocess)),
        encode=encode,
        invert=invert,
        chunk=chunk,
        score=score,
        rescore=rescore,
        remember=remember,
        dim=backbone.embed_dim,
        weights=weights,
        working=CHUNK_BYTES + 4 * texts * (backbone.embed_dim + BATCH),
    )


def _interneg(dim: int, device: torch.device, seconds: Timer) -> tuple[float, float]:
    """Seconds of a batch with no image gated, and what all of them gated adds, not inverted."""
    full = FullBank(dim, device, lambda features, ids: features)
    none, every = full.batch(0.0), full.batch(1.0)
    score = seconds(lambda: full.step(none, 0))
    return score, max(seconds(lambda: full.step(every, BATCH)) - score, 0.0)


def _rationeg(dim: int, device: torch.device, seconds: Timer) -> Affine:
    """A batch of RatioNeg with a full memory, by the number of images it remembers."""
    generator = torch.Generator().manual_seed(0)

    def near(rows: Tensor) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(device)
        return F.normalize(rows + 0.5 * F.normalize(noise, dim=1), dim=1)

    rows = torch.randn(CLASSES + RATIO_NEGATIVES, dim, generator=generator).to(device)
    unit = F.normalize(rows, dim=1)
    labels, negatives = unit[:CLASSES], unit[CLASSES:]
    classes = torch.arange(CLASSES, device=device).repeat(RATIO_SHOTS)
    space = TextSpace(
        labels,
        100.0,
        negatives,
        labels,
        torch.ones(CLASSES, device=device),
        shots=near(labels.repeat(RATIO_SHOTS, 1)),
        shot_labels=classes,
    )
    detector = RatioNeg(RatioNegSettings(shots_per_class=RATIO_SHOTS)).fit(space)
    ids = torch.arange(BATCH)
    known, unknown = near(labels[:BATCH]), near(negatives[:BATCH])
    for _ in range(detector.settings.memory_capacity // BATCH + 2):
        detector.step(unknown, ids)
    state = detector.state_dict()

    remembered = []

    def run(features: Tensor) -> None:
        detector.load_state_dict(state)
        before = detector.memory.remembered
        detector.step(features, ids)
        remembered.append(detector.memory.remembered - before)

    loading = seconds(lambda: detector.load_state_dict(state))
    few = max(seconds(lambda: run(known), warm_up=False) - loading, 0.0)
    least = remembered[-1]
    many = max(seconds(lambda: run(unknown), warm_up=False) - loading, 0.0)
    return affine_through(least, few, max(remembered[-1], least + 1), many)


def cpu_name() -> str:
    """This CPU as figures should state it: its instruction set, and the threads in use."""
    threads = torch.get_num_threads()
    return f"CPU, {instruction_set()}, {threads} thread{'' if threads == 1 else 's'}"


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

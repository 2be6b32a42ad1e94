"""Figures that need no measuring: those kept in the package, and what a GPU's data sheet gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources

from openood_interneg.cli.cost_model import Affine, Figures
from openood_interneg.settings import SettingsError

KEPT = "cost_figures.json"  # written by benchmarks/cost_model.py --keep


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker states it.

    Attributes:
        name: of the model.
        fp32: FLOPs per second of dense products; torch keeps fp32 products out of TF32.
        low: the same in bf16 and fp16.
        bandwidth: bytes per second of its memory.
    """

    name: str
    fp32: float
    low: float
    bandwidth: float


H100 = Gpu("H100 SXM", 67e12, 989e12, 3.35e12)
REACHED = 0.4  # share of the stated FLOPs that products of these sizes are taken to reach
LAUNCH = 5e-6  # seconds of starting a kernel
STEPS = 10
STEP_KERNELS = 600  # operators of a step of an inversion, there and back, 12 layers: counted
STEP_POSITIONS = {"photo": 2.0, "imagenet80": 3.1}  # from the pseudo-token on, mean of templates
SCORE_KERNELS, SCORE_READS = 40, 6  # of a batch's scoring; passes over its logits
RATIO_LOGITS, RATIO_SHOTS, EXP_SECONDS = 71_000, 2000, 1e-8  # C + M; float64 on the host
IMAGE_FLOPS = {"ViT-B/16": 35.1e9, "ViT-L/14": 162e9}  # of encoding one image
TEXT_WEIGHTS = {"ViT-B/16": 37.7e6, "ViT-L/14": 84.9e6}  # of the 12 blocks


def kept_figures(name: str, precision: str, templates: str) -> Figures:
    """Figures of a CPU out of the package.

    Raises:
        SettingsError: none are kept for that backbone, precision or set of templates.
    """
    rows = json.loads(resources.files(__package__).joinpath(KEPT).read_text(encoding="utf-8"))
    wanted = " ".join((name, precision, templates))
    if wanted not in rows:
        raise SettingsError(
            f"no figures are kept for {wanted}, only for {', '.join(sorted(rows))}; add --measure, "
            "which takes them on this machine in less than a minute"
        )
    row = rows[wanted]
    parts = {part: Affine(**row[part]) for part in ("invert", "remember")}
    return Figures(**(row | parts))


def derived_figures(
    host: Figures, name: str, precision: str, templates: str, gpu: Gpu = H100
) -> Figures | None:
    """Figures of a GPU from FLOPs, memory bandwidth and kernel launches; nothing is measured.

    Decoding, and RatioNeg's memory, stay on the host.

    Args:
        host: figures of a CPU, for what it keeps.
        name: of the backbone.
        precision: of the towers.
        templates: prompt set of the inversions.
        gpu: what its maker states.

    Returns:
        The figures, or None for sizes that are not known.
    """
    if name not in IMAGE_FLOPS or templates not in STEP_POSITIONS:
        return None
    low = not precision.startswith("fp32")
    flops = REACHED * (gpu.low if low else gpu.fp32)
    weights = TEXT_WEIGHTS[name]
    step = max(STEP_KERNELS * LAUNCH, 2 * weights * (2 if low else 4) / gpu.bandwidth)
    inverted = 2 * 2 * weights * STEP_POSITIONS[templates] * STEPS  # FLOPs, there and back

    def passes(texts: int) -> float:
        return SCORE_KERNELS * LAUNCH + host.batch * texts * 4 * SCORE_READS / gpu.bandwidth

    score = passes(5000)
    on_host = host.batch * RATIO_SHOTS * EXP_SECONDS
    return replace(
        host,
        device=f"{gpu.name} (derived)",
        origin=f"derived from FLOPs ({REACHED:.0%} of the data sheet's), bandwidth and kernel "
        f"launches ({LAUNCH * 1e6:.0f} us each), not measured",
        encode=IMAGE_FLOPS[name] / flops,
        invert=Affine((STEPS + 0.5) * step, inverted / flops),
        score=score,
        rescore=score,
        remember=Affine(passes(RATIO_LOGITS) + on_host, host.remember.each),
    )

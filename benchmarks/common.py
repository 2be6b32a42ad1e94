"""What the benchmarks share: machine, timing, models with random weights, result files."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch

from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import device_name, instruction_set
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tokenizers import byte_pairs

RESULTS = Path(__file__).resolve().parent / "results"

# Sizes of OpenAI's towers: embedding, text (width, heads), image (width, layers, patch).
TOWERS = {
    "ViT-B/16": (512, (512, 8), (768, 12, 16)),
    "ViT-L/14": (768, (768, 12), (1024, 24, 14)),
}


def random_backbone(
    name: str,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    *,
    image_tower: bool = True,
) -> Backbone:
    """A CLIP of that size with random weights; without its image tower a token one stands in."""
    embed, (width, heads), (image_width, layers, patch) = TOWERS[name]
    if not image_tower:
        image_width, layers, patch = 64, 1, 224
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=embed,
        vision_cfg=dict(image_size=224, layers=layers, width=image_width, patch_size=patch),
        text_cfg=dict(width=width, heads=heads, layers=12),
        quick_gelu=True,
    )
    tokenizer = byte_pairs()
    return Backbone(
        model, tokenizer, Preprocess(224), name=name, device=device, precision=precision
    )


def random_features(count: int, dim: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """(count, dim) unit rows."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(rows, dim=-1).to(device)


def medians(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each variant; they take turns, so that a busy minute hits all of them.

    Args:
        variants: name -> what is timed.
        repeats: of each.
        warm_up: calls before them that are not counted.
        clock: `time.process_time` with one thread leaves out what else runs on the machine.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + repeats):
        for name, run in variants.items():
            _wait()
            start = clock()
            run()
            _wait()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """The machine as figures should state it."""
    return {
        "device": device_name(device),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "instructions": instruction_set(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024)


def write(
    name: str,
    variants: Mapping[str, float],
    ratio: float,
    *,
    device: str | torch.device = "cpu",
    out: Path | None = None,
    **more: Any,
) -> Path:
    """Writes `<name>.json` (with `-cuda` on a GPU) and prints where.

    Args:
        name: of the file.
        variants: median seconds of each.
        ratio: slow over fast, unless `more` says otherwise.
        device: on which it ran.
        out: folder, by default the one of this checkout's results.
        more: further keys.
    """
    suffix = "" if torch.device(device).type == "cpu" else f"-{torch.device(device).type}"
    path = (out or RESULTS) / f"{name}{suffix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "machine": machine(device),
        "variants": {k: round(v, 6) for k, v in variants.items()},
        "ratio": round(ratio, 3),
    } | more
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.name}")
    return path

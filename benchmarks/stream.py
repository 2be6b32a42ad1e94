"""A stream of a million features: time per image and memory must not grow.

    python benchmarks/stream.py [--method interneg|tins|rationeg] [--images 1000000]
        [--update batch|sample|both]

Features are drawn batch by batch (a tenth of them OOD) and not timed. The inverter is a stand-in,
a fixed rotation: its cost is constant by construction, and this is about everything else. The
time of a batch is taken from its median over a tenth of the stream, which a neighbour on the
machine disturbs less than the sum does; the sum is in the file, too.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from common import machine, peak_bytes, resident_bytes, write

from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.vlm.device import pick_device

BATCH = 256
TENTHS = 10
SHOTS = 16  # ID images of each class
SIZES = {"interneg": (512, 100, 1000, 1000), "tins": (512, 100, 1000, 1000)}
SIZES["rationeg"] = (512, 100, 1000, 500)
# What a method calls the size of its memory.
CAPACITY = {"rationeg": "memory_capacity"}


class Drawn:
    """Features of ID classes and of nothing in particular, endlessly."""

    def __init__(self, space: TextSpace, ood_share: float):
        self.space, self.ood_share = space, ood_share
        self.generator = torch.Generator().manual_seed(0)

    def batch(self, count: int) -> torch.Tensor:
        """(count, D) unit rows."""
        dim = self.space.labels.shape[1]
        noise = F.normalize(torch.randn(count, dim, generator=self.generator), dim=1)
        which = torch.randint(len(self.space.labels), (count,), generator=self.generator)
        ood = torch.rand(count, generator=self.generator) < self.ood_share
        near = self.space.labels.cpu()[which] + noise
        return F.normalize(torch.where(ood[:, None], noise, near), dim=1)


def run(method: str, update: str, images: int, device: torch.device) -> dict:
    """One stream; seconds per batch and memory of each tenth."""
    dim, classes, negatives, capacity = SIZES[method]
    unit = torch.nn.functional.normalize(
        torch.randn(classes + negatives + dim, dim, generator=torch.Generator().manual_seed(1))
    )
    labels, proxies = unit[:classes], F.normalize(unit[:classes] + 0.5 * unit[-classes:], dim=1)
    own = torch.arange(classes).repeat_interleave(SHOTS)
    noise = torch.randn(len(own), dim, generator=torch.Generator().manual_seed(2))
    space = TextSpace(
        labels=labels,
        logit_scale=100.0,
        negatives=unit[classes : classes + negatives],
        proxies=proxies,
        base=(labels * proxies).sum(1),
        shots=F.normalize(labels[own] + F.normalize(noise, dim=1), dim=1),
        shot_labels=own,
    ).to(device)
    rotation = torch.linalg.qr(unit[-dim:])[0].to(device)
    row = get_method(method)
    values = {"update": update, CAPACITY.get(method, "bank_capacity"): capacity}
    if update == "sample":
        values |= row.causal
    detector = row.make(row.make_settings(values), lambda h, ids: h @ rotation).fit(space)
    drawn = Drawn(space, 0.1)
    times, sums, memory, banks, seen = [], [], [], [], 0
    ids = torch.arange(BATCH)
    batches = images // BATCH
    for tenth in range(TENTHS):
        spent = []
        for _ in range(batches * tenth // TENTHS, batches * (tenth + 1) // TENTHS):
            features = drawn.batch(BATCH).to(device)
            start = time.perf_counter()
            detector.step(features, ids).score.sum().item()
            spent.append(time.perf_counter() - start)
            seen += len(features)
        times.append(statistics.median(spent))
        sums.append(sum(spent))
        memory.append(resident_bytes())
        banks.append(len(detector.memory if method == "rationeg" else detector.bank))
        print(
            f"{update:6} tenth {tenth + 1:2}: {times[-1] / BATCH * 1e6:7.2f} us an image (median), "
            f"{sums[-1]:6.1f} s, {memory[-1] / 2**20:6.0f} MiB, bank {banks[-1]}",
            flush=True,
        )
    return {
        "update": update,
        "images": seen,
        "inverted": getattr(detector, "inverted", 0),
        "seconds_per_image": [t / BATCH for t in times],
        "seconds_of_tenth": sums,
        "resident_mib": [round(m / 2**20, 1) for m in memory],
        "last_over_second": times[-1] / times[1],
        "memory_growth_mib": round((memory[-1] - memory[1]) / 2**20, 1),
        "bank": banks,
    }


def main() -> None:
    """Runs the stream in one or both ways of updating the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=tuple(SIZES), default="interneg")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--update", choices=("batch", "sample", "both"), default="both")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    device = pick_device(given.device)
    print(machine(device))
    ways = ("batch", "sample") if given.update == "both" else (given.update,)
    cases = [run(given.method, update, given.images, device) for update in ways]
    for case in cases:
        print(
            f"{case['update']}: last tenth over second {case['last_over_second']:.3f} (target at "
            f"most 1.1), memory {case['memory_growth_mib']:+} MiB between them"
        )
    if not given.no_write:
        head = cases[0]
        write(
            "stream" if given.method == "interneg" else f"stream_{given.method}",
            {
                "second tenth, an image": head["seconds_per_image"][1],
                "last tenth, an image": head["seconds_per_image"][-1],
            },
            head["last_over_second"],
            device=device,
            method=given.method,
            sizes=dict(zip(("D", "C", "M", "K"), SIZES[given.method], strict=True)),
            batch=BATCH,
            peak_mib=round(peak_bytes() / 2**20),
            cases=cases,
        )


if __name__ == "__main__":
    main()

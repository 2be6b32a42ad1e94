"""Many labels and many negatives: time and memory of an image, and what an admission costs.

    python benchmarks/scale.py [--quick]

Every cell (C, M) is a process of its own on one thread: it makes unit features of 512 numbers, fits
a method and scores batches. Time is the process's CPU time, which neighbours on the machine disturb
less than the clock; memory is the most that the process ever held beyond what it held before the
features were made. The last part takes turns in one process: InterNeg as it is, and the plain way
(texts copied behind one another, one product, all log-sums anew after an admission).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import machine, medians, peak_bytes, resident_bytes, write
from torch import Tensor

from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.batch_logits import EVERY, BatchLogits
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings

DIM, BANK, SHOTS = 512, 2000, 4
CLASSES, MINED = (10, 100, 1000, 10_000), (2000, 70_000, 1_000_000)
GATED = 25  # of 256: a tenth
REFERENCE = (1000, 70_000)  # whose time per text is extrapolated
# Settings and images in a batch.
WAYS: dict[str, tuple[str, dict[str, Any], int]] = {
    "interneg": ("interneg", {"groups": 1, "beta": 0.0}, 64),
    "interneg, 5 groups": ("interneg", {"groups": 5, "beta": 0.0}, 64),
    "interneg, 64 of 64 gated": ("interneg", {"groups": 1, "beta": 1.0}, 64),
    "neglabel": ("neglabel", {"groups": 1}, 64),
    "neglabel, 100 groups": ("neglabel", {"groups": 100}, 64),
    "rationeg": ("rationeg", {"shots_per_class": SHOTS}, 64),
}


def unit(count: int, seed: int) -> Tensor:
    """(count, DIM) unit rows, made in place: nothing else is held on the way.

    4096 are drawn; further ones are these with their numbers rolled: a million come quickly.
    """
    rows = torch.empty(count, DIM)
    first, *further = rows.split(4096)
    first.normal_(generator=torch.Generator().manual_seed(seed))
    first /= first.norm(dim=1, keepdim=True)
    for turn, part in enumerate(further, start=1):
        part.copy_(first[: len(part)].roll(turn, dims=1))
    return rows


def space_of(classes: int, mined: int) -> TextSpace:
    """Labels, negatives, proxies near the labels, and a few ID images of (at most 100) classes."""
    labels = unit(classes, 1)
    proxies = F.normalize(labels + 0.5 * unit(classes, 2), dim=1)
    own = torch.arange(min(classes, 100)).repeat_interleave(SHOTS)
    return TextSpace(
        labels=labels,
        logit_scale=100.0,
        negatives=unit(mined, 3),
        proxies=proxies,
        base=(labels * proxies).sum(1),
        shots=F.normalize(labels[own] + unit(len(own), 4), dim=1),
        shot_labels=own,
    )


def rotate(features: Tensor, ids: Tensor) -> Tensor:
    """In place of an inversion, which is timed elsewhere: another unit row of each image's own."""
    return features.roll(1, dims=1)


def cell(way: str, classes: int, mined: int, repeats: int) -> dict[str, Any]:
    """CPU microseconds and MiB of an image; runs in its own process."""
    name, values, batch = WAYS[way]
    row = get_method(name)
    small = row.make(row.make_settings(values), rotate).fit(space_of(10, 8192))
    small.step(unit(batch, 5))  # what libraries hold for themselves
    before = resident_bytes()
    space = space_of(classes, mined)
    held = sum(t.numel() * 4 for t in (space.labels, space.negatives, space.proxies, space.shots))
    with torch.no_grad():
        detector: Detector[Any] = row.make(row.make_settings(values), rotate).fit(space)
        times = []
        for turn in range(repeats + 1):
            features = F.normalize(space.labels[torch.arange(batch) % classes] + unit(batch, turn))
            start = time.process_time()
            detector.step(features)
            times.append(time.process_time() - start)
    beyond = peak_bytes() - before - held
    return {
        "way": way,
        "classes": classes,
        "negatives": mined,
        "batch": batch,
        "microseconds_per_image": round(1e6 * median(times[1:]) / batch, 1),
        "features_mib": round(held / 2**20, 1),
        "beyond_mib": round(beyond / 2**20, 1),
        "beyond_mib_per_image": round(beyond / 2**20 / batch, 3),
        "memory_ratio": round(1 + beyond / held, 3),
    }


def in_child(way: str, classes: int, mined: int, repeats: int) -> dict[str, Any]:
    """`cell` in a process of its own."""
    said = subprocess.run(
        [sys.executable, __file__, "--cell", way, str(classes), str(mined), str(repeats)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, Any] = json.loads(said)
    return found


class PlainLogits(BatchLogits):
    """(B, C + M + K) logits of one matrix of texts."""

    def __init__(self, features: Tensor, detector: PlainInterNeg, bank: NegativeBank):
        self.features, self.detector = features, detector
        self.size, self.layout = len(bank), bank.layout
        space, texts = detector.space, detector.texts
        self.fixed = len(texts) - bank.capacity
        texts[self.fixed : self.fixed + len(bank)] = bank.places
        used = texts[: self.fixed + len(bank)]
        self.every = features.new_empty(len(features), len(texts))
        torch.mm(features, used.t(), out=self.every[:, : len(used)])
        self.every[:, : len(used)] *= space.logit_scale / detector.settings.tau
        self.id_logits = self.every[:, : len(space.labels)]
        self.id_lse = self.id_logits.logsumexp(dim=1)

    def admitted(self, bank: NegativeBank, rows: slice = EVERY) -> None:
        """One column for each row written."""
        assert rows == EVERY and self.layout == bank.layout
        columns, self.size = self.fixed + bank.written, len(bank)
        scale = self.detector.space.logit_scale / self.detector.settings.tau
        fresh = self.features @ bank.places[bank.written].t() * scale
        self.every[:, columns] = fresh


class PlainInterNeg(InterNeg):
    """The plain way: a second buffer of all texts, all log-sums anew after an admission."""

    def _fit(self, space: TextSpace) -> None:
        super()._fit(space)
        rows = self.bank.features.new_zeros(self.bank.capacity, DIM)
        self.texts = torch.cat([space.labels, space.negatives, rows])

    def _batch_logits(self, features: Tensor, bank: NegativeBank) -> Any:
        return PlainLogits(features, self, bank)

    def _scores(self, every: Any, columns: Tensor, rows: slice = EVERY) -> Tensor:
        classes, end = len(self.space.labels), every.fixed + every.size
        return torch.sigmoid(every.id_lse - every.every[:, classes:end].logsumexp(dim=1))


def admissions(mined: int, repeats: int) -> dict[str, Any]:
    """A batch of 256 without and with a tenth of it admitted, as it is and the plain way."""
    space, batch = space_of(100, mined), 256
    noise = unit(batch, 7)
    features = F.normalize(space.labels[torch.arange(batch) % 100] + noise, dim=1)
    features[:: batch // GATED] = noise[:: batch // GATED]  # near no label
    full = NegativeBank(BANK, DIM)
    state = {**full.state_dict(), "features": unit(BANK // 2, 8), "deviation": torch.zeros(1000)}
    state["keys"] = torch.arange(BANK // 2)
    state = {f"bank.{k}": v for k, v in state.items()}
    state |= {"seen": torch.tensor(0), "inverted": torch.tensor(0)}
    settings = InterNegSettings(groups=1, bank_capacity=BANK, beta=0.0)
    runs: dict[str, Any] = {}
    taken: dict[str, Tensor] = {}
    for label, kind in (("blocks", InterNeg), ("plain", PlainInterNeg)):
        for share, beta in (("none gated", 0.0), ("10 % gated", 0.5)):
            detector = kind(replace(settings, beta=beta), rotate).fit(space)

            def run(
                name: str = f"{label}, {share}", detector: InterNeg = detector, beta: float = beta
            ) -> None:
                detector.load_state_dict(state)
                taken[name] = detector.step(features).score
                grown = len(detector.bank) - BANK // 2
                assert grown == (len(features[:: batch // GATED]) if beta else 0)

            runs[f"{label}, {share}"] = run
    with torch.no_grad():
        times = medians(runs, repeats)
    apart = max(
        float((taken[f"blocks, {s}"] - taken[f"plain, {s}"]).abs().max())
        for s in ("none gated", "10 % gated")
    )
    return {"times": times, "largest_difference_of_scores": apart, "negatives": mined}


def main() -> None:
    """All cells, then the admissions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few cells, nothing written")
    parser.add_argument("--cell", nargs=4, metavar=("WAY", "C", "M", "REPEATS"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cell:
        way, *numbers = given.cell
        print(json.dumps(cell(way, *map(int, numbers))))
        return
    print(start := machine())
    grid = [(c, m) for c in CLASSES for m in MINED]
    wanted = [("interneg", *REFERENCE)] + [("interneg", *at) for at in grid if at != REFERENCE]
    wanted += [(way, 1000, m) for way in WAYS if way != "interneg" for m in MINED[1:]]
    if given.quick:
        wanted = [w for w in wanted if w[2] < MINED[-1] and w[1] in (1000, 10_000)]
    cells = []
    per_text: dict[str, float] = {}
    for way, classes, mined in wanted:
        found = in_child(way, classes, mined, given.repeats)
        spent = found["microseconds_per_image"] / (classes + mined)
        # Linear is the time per text of the same method at 1,000 labels and 70,000 negatives.
        found["to_linear"] = round(spent / per_text.setdefault(way, spent), 3)
        cells.append(found)
        print(
            f"{way:26} C {classes:6} M {mined:8} {found['microseconds_per_image']:10.1f} us, "
            f"{found['to_linear']:5.2f} of linear; {found['beyond_mib']:7.1f} MiB beyond "
            f"{found['features_mib']:7.1f}, x {found['memory_ratio']:.2f}"
        )
    found = admissions(REFERENCE[1], given.repeats + 2)
    times = found.pop("times")
    for name, seconds in times.items():
        print(f"{name:24} {1e3 * seconds:8.1f} ms")
    extra = {
        way: round(times[f"{way}, 10 % gated"] / times[f"{way}, none gated"] - 1, 3)
        for way in ("blocks", "plain")
    }
    ratio = times["plain, 10 % gated"] / times["blocks, 10 % gated"]
    print(f"10 % gated cost more by {extra}; plain over blocks {ratio:.2f}; {found}")
    if not given.quick:
        more = {"admission_extra": extra, "load_at_start": start["load"], "cells": cells}
        write("scale", times, ratio, dim=DIM, **found, **more)


if __name__ == "__main__":
    main()

"""Streams that could poison a memory, and what they do to the threshold.

Half of some 4,000 drawn ID images calibrate: the threshold is the score that 95 % of them reach.
Of the other half, which is in no stream, the share that the threshold rejects (the false-alarm
rate) is counted as the stream goes by, every 100 images: 1,200 images of a hostile stream, then 800
of an ordinary mixture. By default the threshold follows the memory; the variants "fixed" keep the
one from before the stream, and "p <= 0.05" needs no calibration images at all. Beside it stand the
false alarms among the stream's own ID images, each judged at its own moment, and the OOD images
that pass at the end.

    python benchmarks/hostile.py

Features are those of the embedded miniature (ten drawn ID classes; see `interneg demo`), with a
corpus of 8000 words of WordNet. A larger CLIP's rates differ; the kinds of drift are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from common import RESULTS, machine, medians, write
from hostile_streams import (
    ID_KINDS,
    KEPT,
    LENGTH,
    MISSING,
    PROBES,
    VARIANTS,
    WATCHED,
    Bench,
    Pool,
    cat,
    ordinary,
    streams,
)
from torch import Tensor

from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.scores import Scores
from openood_interneg.vlm.factory import load_backbone

AFTER, EVERY, BATCH = 800, 100, 50
AIM = 0.05  # false alarms that are wanted
WITHIN = 0.02
OWN, PASSING = "ID images of the hostile part", "OOD taken for ID at the end"
COST_OF = ("InterNeg", "TINS", "AdaNeg", "RatioNeg")


class Judge:
    """Says of scores which images are unknown: by p-value, a fixed threshold or the present one."""

    def __init__(self, name: str, detector: Detector, watched: Tensor):
        self.by_p = "p <=" in name
        self.detector = detector
        if not self.by_p:
            detector.watch(watched, 1 - AIM)
        self.fixed = detector.threshold if name.endswith("fixed") else None

    def unknown(self, scores: Scores) -> Tensor:
        """(B,) bool."""
        if self.by_p:
            assert scores.p is not None
            return scores.p <= AIM
        gamma = self.detector.threshold if scores.gamma is None else scores.gamma
        return scores.score < (gamma if self.fixed is None else self.fixed)

    def rate(self, images: Tensor) -> float:
        """Share of images (n, D) that are unknown now; nothing is learned from them."""
        return float(self.unknown(self.detector.score(images)).float().mean())


def run(bench: Bench, name: str, hostile: Pool, rng: np.random.Generator, classes: int) -> dict:
    """False-alarm rates along a stream, and what came in."""
    detector = bench.detector(name, classes)
    probe = bench.id_probe.of(classes).features
    judge = Judge(name, detector, bench.id_watched.of(classes).features)
    stream = cat(hostile, ordinary(bench, bench.id_after, rng, AFTER))
    rates, said, bank = [], [], -1
    for begin in range(0, len(stream.ids), BATCH):
        if begin % EVERY == 0:
            rates.append(judge.rate(probe))
        part = slice(begin, begin + BATCH)
        said.append(judge.unknown(detector.step(stream.features[part], stream.ids[part])))
        bank = max(bank, len(detector.bank) if hasattr(detector, "bank") else -1)
    rates.append(judge.rate(probe))
    known = (stream.classes >= 0) & (stream.classes < classes)
    alarms = torch.cat(said)[known].float()
    before = int(known[:LENGTH].sum())
    passing = cat(
        bench.near.at(torch.arange(200)), *(p.at(torch.arange(50)) for p in bench.far.values())
    )
    return {
        "start": rates[0],
        "after hostile part": rates[LENGTH // EVERY],
        "end": rates[-1],
        "largest": max(rates),
        "smallest": min(rates),
        "deviation": max(abs(rate - AIM) for rate in rates),
        "rates": [round(rate, 4) for rate in rates],
        OWN: float(alarms[:before].mean()),
        "ID images after it": float(alarms[before:].mean()),
        PASSING: 1 - judge.rate(passing.features),
        "bank": bank,
    }


def cost(bench: Bench) -> dict[str, dict[str, float]]:
    """Milliseconds an image of an ordinary mixture with and without watched images.

    Inversions are known, so the ratio is larger than where they are computed.
    """
    stream = ordinary(bench, bench.id_test, np.random.default_rng(1), LENGTH)
    found = {}
    for name in COST_OF:

        def streamed(count: int, name: str = name) -> None:
            detector = bench.detector(name)
            if count:
                detector.watch(bench.id_watched.features[:count])
            for begin in range(0, LENGTH, BATCH):
                part = slice(begin, begin + BATCH)
                detector.step(stream.features[part], stream.ids[part])

        seconds = medians(
            {str(n): lambda n=n: streamed(n) for n in (0, 256, 1000)},  # type: ignore[misc]
            repeats=3,
        )
        found[name] = {n: round(1000 * s / LENGTH, 4) for n, s in seconds.items()}
        ratios = ", ".join(f"{n}: {seconds[n] / seconds['0']:.2f}" for n in ("256", "1000"))
        print(f"{name}: {found[name]['0']:.3f} ms an image; times with n watched {ratios}")
    return found


def table(record: dict) -> str:
    """The stored results as a Markdown table: false alarms along the stream / OOD that passes."""
    cases = record["cases"]
    rows = [["stream", *cases], ["---"] * (len(cases) + 1)]
    for stream in next(iter(cases.values())):
        cells = []
        for by in cases.values():
            found = by[stream]
            least, most = 100 * found["smallest"], 100 * found["largest"]
            cells.append(f"{least:.1f}-{most:.1f} / {100 * found[PASSING]:.0f}")
        rows.append([stream, *cells])
    rows.append(["**largest distance from 5**"])
    rows[-1] += [f"**{100 * record['deviation'][name]:.1f}**" for name in cases]
    own = [[by[name][OWN] for name in by if "low" not in name] for by in cases.values()]
    rows.append(["the streams' own ID images"])
    rows[-1] += [f"{100 * min(shares):.1f}-{100 * max(shares):.1f}" for shares in own]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Runs all variants on all streams and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--words", type=int, default=8000)
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by semicolons")
    parser.add_argument("--stream", help="one stream only")
    parser.add_argument("--table", action="store_true", help="print the stored results and stop")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads((RESULTS / "hostile.json").read_text(encoding="utf-8"))))
        return
    print(machine())
    begin = time.perf_counter()
    bench = Bench(load_backbone("miniature"), options.words)
    space = bench.space()[1]
    print(f"{len(space.negatives)} negatives, {time.perf_counter() - begin:.0f} s", flush=True)
    makers = {n: m for n, m in streams(bench).items() if options.stream in (None, n)}
    columns = (
        "start",
        "smallest",
        "largest",
        "after hostile part",
        "end",
        OWN,
        "ID images after it",
        PASSING,
    )
    head = "".join(f"{c:>8}" for c in ("start", "least", "most", "after", "end"))
    head = f"{'stream':<26}{head}{'own':>8}{'own 2':>8}{'missed':>8}{'bank':>6}"
    results: dict[str, dict[str, dict]] = {}
    for variant in options.variants.split(";"):
        print(f"\n{variant}\n{head}", flush=True)
        results[variant] = {}
        for name, maker in makers.items():
            rng = np.random.default_rng(0)
            classes = KEPT if name == MISSING else len(ID_KINDS)
            hostile = maker(rng)
            begin = time.perf_counter()
            found = run(bench, variant, hostile, rng, classes)
            found["seconds"] = round(time.perf_counter() - begin, 3)
            results[variant][name] = found
            numbers = "".join(f"{100 * found[column]:8.1f}" for column in columns)
            print(f"{name:<26}{numbers}{found['bank']:6d}", flush=True)
    print(f"\nlargest distance from {AIM:.0%}, in points, along the stream")
    deviations = {}
    for variant, by in results.items():
        worst = max(by, key=lambda name: by[name]["deviation"])
        deviations[variant] = by[worst]["deviation"]
        kept = "" if deviations[variant] <= WITHIN else f"   more than {WITHIN:.0%}"
        print(f"{variant:<30}{100 * deviations[variant]:6.1f}  {worst}{kept}")
    costs = cost(bench)
    if not options.no_write:
        spent = {
            name: statistics.median(found["seconds"] for found in by.values())
            for name, by in results.items()
        }
        write(
            "hostile",
            spent,
            max(spent.values()) / spent[next(iter(results))],
            note=f"seconds of a stream of {LENGTH + AFTER} images, inversions known; the ratio is "
            "that of the slowest variant to the first. Rates are shares from 0 to 1 of "
            f"{PROBES} held-out ID images, the threshold from {WATCHED} others; milliseconds an "
            "image by the number of watched images",
            deviation={name: round(value, 4) for name, value in deviations.items()},
            milliseconds=costs,
            cases=results,
        )


if __name__ == "__main__":
    main()

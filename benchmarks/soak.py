"""A million image features, and 100,000 photographs, through detectors in use: nothing grows.

Features are those of drawn images with noise, and one in ten at random, fresh for every batch;
inversion, whose cost does not depend on the stream, is replaced by a fixed rotation with noise.
Each method has a process of its own. Ten times, and a few times while its memory still grows, its
resident memory, speed and saved state are measured, and the state is loaded into a second detector,
which must score the next batches alike and remember the same. Beside that `interneg score` reads
the paths of photographs from standard input (`soak_images.py`). The exit code tells of a violation.

    python benchmarks/soak.py            # half an hour
    python benchmarks/soak.py --quick    # a hundredth of it
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import machine, resident_bytes, write
from soak_images import soak_images
from torch import Tensor

from openood_interneg.application.detector import OODDetector
from openood_interneg.demo.world import ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.vlm.factory import load_backbone

WORDS = "noise stripe check dot texture letter bird whale gear barn chair bottle lamp boat clock"
METHODS = ("interneg", "tins", "rationeg", "adaneg")
CAPACITY = {"interneg": "bank_capacity", "tins": "bank_capacity", "rationeg": "memory_capacity"}
FEATURES, IMAGES = 1_000_000, 100_000
EARLY = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)  # shares of the stream, while memories grow
BATCHES_ALIKE = 4  # that a resumed detector scores
MEMORY_GROWS, STATE_GROWS = 0.02, 0.01  # shares that count as flat from the second tenth on
SPREAD = 5 * 2**20  # bytes: so far the allocator's whims go


class Stream:
    """Batches of features of one detector, whose inversion is replaced.

    Args:
        encoded: (n, D) features of pictures, around which the stream's lie.
        batch_size: images.
    """

    def __init__(self, encoded: Tensor, batch_size: int):
        self.centres, self.batch_size = encoded, batch_size
        size = encoded.shape[1]
        square = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
        self.turn = torch.linalg.qr(square)[0]

    def rotated(self, features: Tensor, ids: Tensor) -> Tensor:
        """The stand-in for inversion; what an image becomes depends on it alone."""
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(int(ids[0])))
        return F.normalize(features @ self.turn + 0.02 * noise, dim=-1)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """(B, D) unit features and (B,) int64 ids of a batch."""
        generator = torch.Generator().manual_seed(number)
        size = self.centres.shape[1]
        at = torch.randint(len(self.centres), (self.batch_size,), generator=generator)
        noise = torch.randn(self.batch_size, size, generator=generator) / size**0.5
        near = (torch.rand(self.batch_size, 1, generator=generator) < 0.9).float()
        ids = torch.arange(self.batch_size) + number * self.batch_size
        return F.normalize(near * self.centres[at] + 0.4 * noise, dim=-1), ids


def soak(method: str, features: int, batch_size: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What was measured at each point of one method's stream."""
    (folder / "words.txt").write_text(WORDS.replace(" ", "\n"))
    clip = load_backbone("miniature")
    settings: dict[str, Any] = {"corpus": str(folder / "words.txt"), "groups": 1}
    if method in CAPACITY:
        capacity = 500 if method == "rationeg" else 2000
        settings[CAPACITY[method]] = min(capacity, max(features // 50, 1))
    if method == "rationeg":
        del settings["groups"]
    detector = OODDetector(clip, method, batch_size=batch_size, cache=False, settings=settings)
    id_images = {
        kind: [draw(kind, image_rng(0, "train", i)) for i in range(24)] for kind in ID_KINDS
    }
    detector.fit(ID_KINDS, id_images, calibrate=True, progress=False)
    kinds = (*ID_KINDS, *NEAR_KINDS)
    pictures = [draw(kind, image_rng(0, "pool", i)) for i, kind in enumerate(kinds)]
    stream = Stream(detector.encoder.encode(pictures)[0], batch_size)
    _replace_inversion(detector, stream)
    points = sorted({round(features * s) for s in (*EARLY, *(t / 10 for t in range(1, 11)))})
    number, last, state = 0, 0, folder / f"{method}.safetensors"
    begin = time.perf_counter()
    for point in points:
        while detector.position < point:
            score = detector.score_features(*stream.batch(number)).score
            number += 1
            assert bool(torch.isfinite(score).all())
        seconds = time.perf_counter() - begin
        count, last = detector.position - last, detector.position
        if count:
            detector.save(state)
            alike = _resumed_alike(detector, stream, number, clip, state)
            number += BATCHES_ALIKE
            gc.collect()
            yield {
                "features": last,
                "MiB": round(resident_bytes() / 2**20, 1),
                "per second": round(count / seconds),
                "remembered KiB": round(detector.memory_bytes / 2**10, 1),
                "state KiB": round(state.stat().st_size / 2**10, 1),
                "gamma": None if detector.gamma is None else round(detector.gamma, 6),
                "resumed alike": alike,
            }
            last = detector.position
        begin = time.perf_counter()


def _replace_inversion(detector: OODDetector, stream: Stream) -> None:
    inner = detector._fitted()
    if getattr(inner, "inverter", None) is not None:
        inner.inverter = stream.rotated  # type: ignore[attr-defined]


def _resumed_alike(
    detector: OODDetector, stream: Stream, number: int, clip: Any, state: Path
) -> bool:
    """Whether a second detector, loaded from the state, goes on like the first; both go on."""
    other = OODDetector.load(state, clip)
    _replace_inversion(other, stream)
    same = True
    for i in range(number, number + BATCHES_ALIKE):
        want, got = (d.predict_features(*stream.batch(i)) for d in (detector, other))
        # A threshold that follows is summed anew when a state is loaded: equal but for rounding.
        near = np.allclose([p.gamma for p in want], [p.gamma for p in got], rtol=0, atol=1e-6)
        same &= want == got and [p.p for p in want] == [p.p for p in got] and near
    ours, theirs = (d._fitted().state_dict() for d in (detector, other))
    same &= ours.keys() == theirs.keys()
    return same and all(torch.equal(ours[name], theirs[name]) for name in ours)


def violations(name: str, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """Figures of how flat a stream was from its second tenth on, and what is wrong."""
    tenths = [row for row in rows if row["features"] >= rows[-1]["features"] * 0.19]
    memory = np.array([row["MiB"] for row in tenths])
    at = np.array([row["features"] for row in tenths])
    slope = float(np.polyfit(at, memory, 1)[0])
    slower = tenths[0]["per second"] / tenths[-1]["per second"]
    figures = {
        "growth MiB": round(float(memory[-1] - memory[0]), 1),
        "slope, MiB per 100,000": round(100_000 * slope, 3),
        "state KiB": tenths[-1]["state KiB"],
        "speed, second tenth over last": round(slower, 3),
    }
    wrong = []
    allowed = max(MEMORY_GROWS * memory[0], SPREAD / 2**20)
    if memory[-1] - memory[0] > allowed or slope * (at[-1] - at[0]) > allowed:
        wrong.append(f"{name}: resident memory grows: {memory.tolist()} MiB")
    states = [row["state KiB"] for row in tenths]
    if max(states) > (1 + STATE_GROWS) * states[0]:
        wrong.append(f"{name}: the state grows: {states} KiB")
    if not all(row["resumed alike"] for row in rows):
        wrong.append(f"{name}: not resumed alike")
    return figures, wrong


def _in_own_process(method: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--only", method, "--features", str(options.features)]
    command += ["--batch-size", str(options.batch_size)]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            rows.append(json.loads(line))
            print(f"{method} {line}", end="", flush=True)
    if child.returncode:
        raise SystemExit(f"{method} ended with {child.returncode}")
    return rows


def main() -> None:
    """Runs the soak and fails where memory, state or scores drift."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--images", type=int, default=IMAGES, help="0: none")
    parser.add_argument("--quick", action="store_true", help="a hundredth of both")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--at-once", type=int, default=1, help="methods; each has its own process")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="folder of the result")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.features, options.images = options.features // 100, options.images // 100
        options.batch_size = min(options.batch_size, 64)
    with tempfile.TemporaryDirectory() as name:
        if options.only:
            for row in soak(options.only, options.features, options.batch_size, Path(name)):
                print(json.dumps(row), flush=True)
            return
        print(machine())
        wrong: list[str] = []
        cases: dict[str, Any] = {}
        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(options.at_once) as pool:
            photographs = beside.submit(soak_images, options.images, Path(name))
            methods = [method for method in options.methods.split(",") if method]
            measured = pool.map(lambda method: _in_own_process(method, options), methods)
            for method, rows in zip(methods, measured, strict=True):
                figures, found = violations(method, rows)
                print(method, figures, flush=True)
                cases[method], wrong = figures | {"points": rows}, wrong + found
            images, found = photographs.result()
        wrong += found
    if not options.no_write:
        variants = {m: 1 / case["points"][-1]["per second"] for m, case in cases.items()}
        worst = max((c["speed, second tenth over last"] for c in cases.values()), default=0.0)
        write("soak", variants, worst, out=options.out, cases=cases, images=images, wrong=wrong)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()

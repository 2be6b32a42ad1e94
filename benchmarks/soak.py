"""One million image features through one detector: memory, speed and state stay flat.

Features are those of drawn images with noise, fresh for every batch; inversion, whose cost does not
depend on the stream, is replaced by a fixed rotation with noise. Every 100,000 features the
resident memory, the speed and the size of the saved state are measured, and the state is loaded
into a second detector, which must score the next batch alike.

    python benchmarks/soak.py
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import machine, resident_bytes, write
from torch import Tensor

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.demo.world import ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.vlm.factory import load_backbone

WORDS = "noise stripe check dot texture letter bird whale gear barn chair bottle lamp boat clock"


def main() -> None:
    """Runs the soak and fails where memory or speed drift."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    print(machine())
    folder = Path(tempfile.mkdtemp())
    (folder / "words.txt").write_text(WORDS.replace(" ", "\n"))
    clip = load_backbone("miniature")
    settings = {"corpus": str(folder / "words.txt"), "cache": False}
    detector = InterNegDetector(clip, batch_size=options.batch_size, gamma=0.5, **settings)
    id_images = {
        kind: [draw(kind, image_rng(0, "train", i)) for i in range(8)] for kind in ID_KINDS
    }
    detector.fit(ID_KINDS, id_images)
    kinds = (*ID_KINDS, *NEAR_KINDS)
    pictures = [draw(kind, image_rng(0, "pool", i)) for i, kind in enumerate(kinds)]
    centres, _ = detector._encoder.encode(pictures)
    size = centres.shape[1]
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))[0]

    def rotated(features: Tensor, ids: Tensor) -> Tensor:
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(int(ids[0])))
        return F.normalize(features @ turn + 0.02 * noise, dim=-1)

    detector._detector.inverter = rotated

    def batch(number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        at = torch.randint(len(centres), (options.batch_size,), generator=generator)
        noise = torch.randn(options.batch_size, size, generator=generator) / size**0.5
        ids = torch.arange(options.batch_size) + number * options.batch_size
        return F.normalize(centres[at] + 0.4 * noise, dim=-1), ids

    rows, number, state = [], 0, folder / "soak.safetensors"
    every = max(options.features // 10, options.batch_size)
    begin = time.perf_counter()
    last = 0
    while detector.position < options.features:
        score = detector.score_features(*batch(number)).score
        number += 1
        assert bool(torch.isfinite(score).all())
        if detector.position // every > last // every:
            seconds = time.perf_counter() - begin
            detector.save(state)
            other = InterNegDetector.load(state, clip)
            other._detector.inverter = rotated
            wanted = other.score_features(*batch(number)).score
            del other
            got = detector.score_features(*batch(number)).score
            number += 1
            gc.collect()
            rows.append(
                {
                    "features": detector.position,
                    "MiB": round(resident_bytes() / 2**20, 1),
                    "per second": round((detector.position - last) / seconds),
                    "bank": detector.bank_size,
                    "inverted": detector._detector.inverted,
                    "state MiB": round(state.stat().st_size / 2**20, 2),
                    "resumed alike": bool((wanted == got).all()),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            last = detector.position
            begin = time.perf_counter()
    growth = rows[-1]["MiB"] - rows[1]["MiB"] if len(rows) > 2 else 0.0
    print(f"memory grew by {growth:.1f} MiB from the second measurement to the last")
    if not options.no_write:
        second, last_row = rows[min(1, len(rows) - 1)], rows[-1]
        write(
            "soak",
            {
                "second tenth, a feature": 1 / second["per second"],
                "last tenth, a feature": 1 / last_row["per second"],
            },
            second["per second"] / last_row["per second"],
            growth_mib=round(growth, 1),
            cases=rows,
        )
    if growth > 50 or not all(row["resumed alike"] for row in rows):
        raise SystemExit("not flat, or not resumed alike")


if __name__ == "__main__":
    main()

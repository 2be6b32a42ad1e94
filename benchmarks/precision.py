"""What the precision of the towers, and `torch.compile`, change: time and AUROC.

    python benchmarks/precision.py [--device cuda] [-- --bench realbench10 --data-root ...]

Time: encoding 32 images (`--images`) with a ViT-B/16 of random weights, all variants in one
process. What `torch.compile` takes to compile is stated beside it.

AUROC: `interneg eval` at each precision, the reference being the first. It runs on the miniature;
arguments after `--` are handed to it and take its place.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from common import machine, medians, random_backbone, write

from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.device import pick_device

METHODS = "mcm,neglabel,interneg_negatives_only,interneg"


def encoding(
    precisions: list[str], device: torch.device, images: int, repeats: int
) -> dict[str, dict]:
    """Seconds per image, and of the first call, of each precision."""
    pixels = torch.randn(images, 3, 224, 224)
    variants, first = {}, {}
    for precision in precisions:
        backbone = random_backbone("ViT-B/16", precision, device)
        start = time.perf_counter()
        try:
            backbone.encode_image(pixels)
        except SettingsError as error:
            print(f"{precision}: {error}")
            continue
        first[precision] = time.perf_counter() - start
        variants[precision] = partial(backbone.encode_image, pixels)
    times = medians(variants, repeats)
    rows = {
        precision: {
            "seconds_per_image": seconds / images,
            "speed_up": times[precisions[0]] / seconds,
            "first_call_seconds": first[precision],
        }
        for precision, seconds in times.items()
    }
    for precision, row in rows.items():
        print(
            f"{precision:13} {row['seconds_per_image'] * 1e3:7.2f} ms an image, "
            f"{row['speed_up']:5.2f} x (first call {row['first_call_seconds']:.1f} s)",
            flush=True,
        )
    return rows


def auroc(precision: str, device: torch.device, arguments: list[str], cache: Path) -> dict:
    """(method, set) -> AUROC in percent, mean over the seeds."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [
                *(sys.executable, "-m", "openood_interneg.cli", "eval", "--methods", METHODS),
                *("--precision", precision, "--device", str(device), "--quiet", "--out", out),
                *("--cache-dir", str(cache), *arguments),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = json.loads((Path(out) / "results.json").read_text())
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["method"], row["dataset"]), []).append(row["AUROC"])
    return {key: sum(values) / len(values) for key, values in found.items()}


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--images", type=int, default=32, help="per timed batch")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("eval", nargs="*", help="arguments of interneg eval, after --")
    given = parser.parse_args()
    device = pick_device(given.device)
    precisions = given.precisions.split(",")
    print(machine(device))
    timed = precisions + ([] if given.no_compile else [f"{p}+compile" for p in precisions])
    times = encoding(timed, device, given.images, given.repeats)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = given.eval
        if not arguments:
            write_benchmark(Path(folder) / "data")
            arguments = ["--data-root", f"{folder}/data", "--backbone", "miniature"]
        by = {p: auroc(p, device, arguments, Path(folder) / "cache") for p in precisions}
    for method, dataset in by[precisions[0]]:
        values = {p: round(by[p][method, dataset], 3) for p in precisions}
        table.append({"method": method, "dataset": dataset} | values)
        print(f"{method:25} {dataset:20}", *(f"{p} {v:6.2f}" for p, v in values.items()))
    changes = [abs(row[p] - row[precisions[0]]) for row in table for p in precisions[1:]]
    print(f"AUROC changes by at most {max(changes, default=0):.3f} points")
    if not given.no_write:
        fastest = times.get(precisions[-1], times[precisions[0]])
        write(
            "precision",
            {p: row["seconds_per_image"] for p, row in times.items()},
            fastest["speed_up"],
            device=device,
            headline=f"encoding with a ViT-B/16: {precisions[0]} over {precisions[-1]}",
            encoding=times,
            batch=given.images,
            bench="miniature" if not given.eval else " ".join(given.eval),
            auroc=table,
            largest_change=max(changes, default=0),
        )


if __name__ == "__main__":
    main()

"""What encoding the corpus in bf16 changes: time, mined words, AUROC.

    python benchmarks/corpus_precision.py [--words 1036] [--repeats 5]

Time: every so many words of the packaged list with a ViT-B/16's text tower of random weights, in
fp32 and in bf16, in one process; on a CPU in CPU seconds of one thread, which leave out what else
runs there. The ratio is fp32 over bf16, so it is below 1 on a CPU without the instructions.

Words and AUROC: `interneg eval` on the miniature with images, labels and inversions in fp32, and
the corpus in fp32 or bf16 (`corpus_precision`). Words: the share that both mine.
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

import pandas as pd
import torch
from common import machine, medians, random_backbone, write

from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.text_precision import text_backbone

METHODS = "neglabel,interneg_negatives_only,interneg,rationeg"
PRECISIONS = ("fp32", "bf16")


def encoding(device: torch.device, count: int, repeats: int) -> dict[str, float]:
    """Median seconds per word of each precision."""
    nouns = load_corpus("wordnet").nouns
    prompts = [f"The nice {w}." for w in nouns[:: max(len(nouns) // count, 1)]]
    backbone = random_backbone("ViT-B/16", "fp32", device, image_tower=False)
    clock = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    runs = {p: partial(text_backbone(backbone, p).encode_text, prompts) for p in PRECISIONS}
    return {p: seconds / len(prompts) for p, seconds in medians(runs, repeats, clock=clock).items()}


def interneg(*arguments: str) -> None:
    """A command of the command line."""
    subprocess.run(
        [sys.executable, "-m", "openood_interneg.cli", *arguments, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def evaluated(precision: str, root: Path, device: torch.device) -> tuple[dict, list[str]]:
    """(method, set) -> AUROC in percent, and the words mined."""
    out = root / precision
    shared = ("--data-root", str(root / "data"), "--backbone", "miniature")
    shared += ("--device", str(device), "--cache-dir", str(root / "cache"))
    shared += ("--corpus-precision", precision)
    interneg("eval", "--methods", METHODS, *shared, "--out", str(out))
    interneg("mine", *shared, "--show", "0", "--out", str(out / "words.csv"))
    rows = json.loads((out / "results.json").read_text())
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["method"], row["dataset"]), []).append(row["AUROC"])
    means = {key: sum(found) / len(found) for key, found in values.items()}
    return means, pd.read_csv(out / "words.csv", keep_default_na=False)["word"].tolist()


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--words", type=int, default=1036, help="that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    device = pick_device(given.device)
    print(machine(device))
    times = encoding(device, given.words, given.repeats)
    ratio = times["fp32"] / times["bf16"]
    print(*(f"{p} {s * 1e3:.2f} ms a word" for p, s in times.items()), f"ratio {ratio:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(Path(folder) / "data")
        found = {p: evaluated(p, Path(folder), device) for p in PRECISIONS}
    (first, words), (second, others) = (found[p] for p in PRECISIONS)
    shared = len({*words} & {*others}) / max(len(words), 1)
    table = [
        {"method": m, "dataset": d, "fp32": round(a, 3), "bf16": round(second[m, d], 3)}
        for (m, d), a in first.items()
    ]
    for row in table:
        print(f"{row['method']:25} {row['dataset']:20} {row['fp32']:7.3f} {row['bf16']:7.3f}")
    change = max(abs(row["fp32"] - row["bf16"]) for row in table)
    print(f"{len(words)} words mined, {shared:.1%} of them by both; AUROC changes by {change:.3f}")
    if not given.no_write:
        write(
            "corpus_precision",
            times,
            ratio,
            device=device,
            headline="encoding words with a ViT-B/16's text tower: fp32 over bf16",
            clock="wall" if device.type != "cpu" else "CPU seconds of one thread",
            bench="miniature",
            words={"mined": len(words), "shared": round(shared, 4)},
            auroc=table,
            largest_change=round(change, 3),
        )


if __name__ == "__main__":
    main()

"""`interneg doctor --cost` against what a stream takes: predicted over measured, by gated share.

    python benchmarks/cost_model.py [--cases "ViT-B/16 fp32 photo"] [--keep "ViT-L/14 bf16 photo"]

Each case's stages are timed as `doctor --cost --measure` does; then InterNeg's batches of 256 with
a full bank, of which 0, 10, 50 and 100 % are gated. The ratio should lie within 1.25 either way;
the script fails where it does not. One thread, in CPU seconds: what else runs on the machine
counts little. The figures of all cases, and of those that --keep names without the check, replace
their rows in the package's `cost_figures.json`, which `doctor --cost` reads.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from common import machine, write

import openood_interneg.cli.cost_figures as package
from openood_interneg.cli.cost_measure import FullBank, Timer, measure, random_backbone
from openood_interneg.cli.cost_model import SHARES, Figures
from openood_interneg.negatives.inversion import LiveInverter
from openood_interneg.vlm.prompts import prompt_set

CASES = "ViT-B/16 fp32 photo,ViT-B/16 bf16 imagenet80"
KEEP = "ViT-B/16 bf16 photo,ViT-B/16 fp32 imagenet80"
LIMIT = 1.25


def timed(run: partial, repeats: int) -> float:
    """Median CPU seconds, of more calls where they are short; the first is not counted."""
    run()
    times: list[float] = []
    while len(times) < repeats or (len(times) < 25 and sum(times) < 1):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2]


def check(case: str, figures: Figures, repeats: int) -> list[dict]:
    """Predicted and measured seconds of a batch at each share."""
    name, precision, templates = case.split()
    backbone = random_backbone(name, "cpu", precision)
    prompts = prompt_set(templates)
    live = LiveInverter(backbone.pseudo_prompts(prompts, 1), len(prompts))
    stream = FullBank(backbone.embed_dim, torch.device("cpu"), live)
    rows = []
    for share in SHARES:
        gated = round(figures.batch * share)
        measured = timed(partial(stream.step, stream.batch(share), gated), repeats)
        predicted = sum(figures.step("interneg", share))
        ratio = predicted / measured
        rows.append(
            {"case": case, "gated": share, "predicted": predicted, "measured": measured}
            | {"ratio": round(ratio, 3)}
        )
        print(
            f"{case:28} {share:4.0%} gated: predicted {predicted:8.4f} s a batch, "
            f"measured {measured:8.4f} s, ratio {ratio:.2f}",
            flush=True,
        )
    return rows


def keep(figures: dict[str, Figures]) -> None:
    """Replaces rows of the package's file."""
    path = Path(package.__file__).with_name(package.KEPT)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows |= {case: asdict(f) for case, f in figures.items()}
    text = json.dumps(_rounded(rows), indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"kept: {', '.join(figures)}", flush=True)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Measures, keeps, checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=CASES, help="checked and kept")
    parser.add_argument("--keep", default=KEEP, help="kept, not checked")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    print(about)
    origin = f"measured in CPU seconds of one thread, {about['cpu']}, torch {about['torch']}"
    cases, more = (list(filter(None, t.split(","))) for t in (given.cases, given.keep))
    rows: list[dict] = []
    for case in cases + more:
        start = time.process_time()
        figures = measure(case.split()[0], "cpu", *case.split()[1:], timer=Timer(time.process_time))
        print(f"{case}: measured in {time.process_time() - start:.0f} CPU s: {figures}", flush=True)
        if not given.no_write:
            keep({case: replace(figures, origin=origin)})
        if case in cases:
            rows += check(case, figures, given.repeats)
    worst = max((max(r["ratio"], 1 / r["ratio"]) for r in rows), default=1.0)
    if rows and not given.no_write:
        head = next(r for r in rows if r["gated"] == 1.0)
        write(
            "cost_model",
            {"predicted": head["predicted"], "measured": head["measured"]},
            head["ratio"],
            headline=f"{head['case']}, all gated: predicted over measured seconds of a batch",
            worst=round(worst, 3),
            limit=LIMIT,
            clock="CPU seconds of one thread",
            repeats=given.repeats,
            cases=rows,
        )
    print(f"off by at most {worst:.2f} x (limit {LIMIT})")
    if worst > LIMIT:
        raise SystemExit("the cost model is off by more than its limit")


if __name__ == "__main__":
    main()

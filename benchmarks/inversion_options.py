"""What InterNeg's options of inversion save: the pre-filter, starts from words, both.

    python benchmarks/inversion_options.py [--realbench DIR] [--quick]

A stream of the ID set and the first OOD set, mixed, of the miniature benchmark, or of realbench10
with --realbench: its features are encoded beforehand, everything else that the detector does is
timed. The variants take turns in one process.

How many images a variant inverts is the stream's; what an inversion costs depends on the tower. So
each variant has a second figure: its number of inversions at the price of a ViT-B/16's text tower
(random weights, imagenet80, batches of 32), measured in the same process. That share does not
count the scoring.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import machine, medians, random_backbone, random_features, write

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.store import Store
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.detectors.interneg import METHOD, InterNeg
from openood_interneg.detectors.method import live
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.protocols import FeatureSet, run_mixed
from openood_interneg.negatives.inversion import LiveInverter
from openood_interneg.negatives.token_start import TokenStart, fit_token_map
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.prompts import prompt_set

DEFAULT, BATCH = "10 steps from random tokens", 32
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "prefilter": {"prefilter": True},
    "init: words, 4 steps": {"init": "words", "steps": 4},
    "both, 4 steps": {"prefilter": True, "init": "words", "steps": 4},
}


def evaluation_of(realbench: Path | None, scratch: Path) -> tuple[Evaluation, dict[str, Any]]:
    """The benchmark, and the settings that go with it."""
    if realbench is not None:
        backbone = load_backbone(realbench / "model" / "clip.safetensors")
        own = {"corpus": str(realbench / "corpus" / "wordnet31.csv"), "proxy_select": "first"}
        benchmark = load_benchmark("realbench10", realbench)
        return Evaluation(benchmark, backbone, Store(scratch / "store")), own
    write_benchmark(scratch / "miniature")
    benchmark = load_benchmark("miniature", scratch / "miniature")
    return Evaluation(benchmark, load_backbone("miniature"), Store(scratch / "store")), {}


class Streams:
    """One stream for a detector of each variant."""

    def __init__(self, evaluation: Evaluation, settings: dict[str, Any]):
        chosen = {k: METHOD.make_settings(settings | own) for k, own in VARIANTS.items()}
        self.id_set, (self.ood_set, *_) = evaluation.method_sets(METHOD, chosen[DEFAULT])
        self.detectors: dict[str, InterNeg] = {}
        for name, own in chosen.items():
            detector = evaluation.detector(METHOD, own, live)
            assert isinstance(detector, InterNeg)
            self.detectors[name] = detector

    def run(self, name: str, count: int | None = None) -> None:
        """The whole stream, or `count` images of each set, through the detector of a variant."""
        sets = [
            FeatureSet(s.name, s.features[:count], s.ids[:count], s.labels[:count])
            for s in (self.id_set, self.ood_set)
        ]
        run_mixed(self.detectors[name], *sets, seed=0)


def tower_seconds(repeats: int) -> dict[str, float]:
    """Seconds of an inversion by a ViT-B/16's text tower, by kind of start."""
    backbone, templates = random_backbone("ViT-B/16", image_tower=False), prompt_set("imagenet80")
    prompts = backbone.pseudo_prompts(templates, 1)
    h, ids = random_features(BATCH, backbone.embed_dim), torch.arange(BATCH)
    words = random_features(1000, backbone.embed_dim)
    token_map = fit_token_map(words, backbone.text_tower.token_embedding[:1000])
    start = TokenStart(token_map, torch.zeros(backbone.embed_dim))
    random = LiveInverter(prompts, len(templates), steps=10)
    closed = LiveInverter(prompts, len(templates), steps=4, start=start)
    times = medians({"random": partial(random, h, ids), "words": partial(closed, h, ids)}, repeats)
    return {name: seconds / BATCH for name, seconds in times.items()}


def main() -> None:
    """The table of the four variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--realbench", type=Path, help="its folder; default: the miniature")
    parser.add_argument("--scratch", type=Path, help="where features are kept between runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="400 images of each set, one repeat")
    given = parser.parse_args()
    repeats, count = (1, 400) if given.quick else (given.repeats, None)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        evaluation, settings = evaluation_of(given.realbench, given.scratch or Path(folder))
        streams = Streams(evaluation, settings)
    times = medians({k: partial(streams.run, k, count) for k in VARIANTS}, repeats)
    price = tower_seconds(repeats)
    rows = []
    for name, own in VARIANTS.items():
        detector = streams.detectors[name]
        tower = detector.inverted * price[own.get("init", "random")]
        rows.append(
            {
                "variant": name,
                "inverted": detector.inverted,
                "skipped": detector.skipped,
                "bank": len(detector.bank),
                "stream_seconds": round(times[name], 4),
                "stream_cost": round(times[name] / times[DEFAULT], 3),
                "vit_b16_inversion_seconds": round(tower, 4),
                "vit_b16_inversion_cost": 0.0,
            }
        )
        rows[-1]["vit_b16_inversion_cost"] = round(tower / rows[0]["vit_b16_inversion_seconds"], 3)
        print(rows[-1], flush=True)
    if not given.quick:
        write(
            "inversion_options",
            times,
            times[DEFAULT] / times["both, 4 steps"],
            headline="a stream of InterNeg with live inversions: default over both options",
            stream=f"{evaluation.benchmark.name}: {streams.id_set.name} and {streams.ood_set.name}",
            vit_b16_seconds_an_inversion={k: round(v, 5) for k, v in price.items()},
            cases=rows,
        )


if __name__ == "__main__":
    main()

"""What an experiment's figures depend on: versions, weights, image lists, corpora, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from openood_interneg.evaluation.provenance import (
    FPR,
    describe_backbone,
    describe_benchmark,
    describe_corpus,
    environment,
)
from openood_interneg.reproduce.cells import Cell
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.resources import Resources
from openood_interneg.vlm.text_precision import text_precision


def experiment_record(
    experiment: Experiment, cells: Sequence[Cell], resources: Resources
) -> dict[str, Any]:
    """The record of an experiment's cells that ran."""
    out: dict[str, Any] = {
        "protocol": experiment.protocol,
        "fpr": FPR,
        "batch_size": experiment.batch_size,
        "seeds": sorted({cell.seed for cell in cells}),
        "backbones": {},
        "benchmarks": {},
        "corpora": {},
        "settings": {},
        "seconds": {},
        "stages": {},
    } | environment(torch.device(resources.options.device))
    for cell in cells:
        if "unavailable" in cell.result:
            continue
        clip = resources.backbone(cell.backbone)
        evaluation = resources.evaluation(cell.part, clip, experiment.preprocess)
        out["backbones"][clip.name] = describe_backbone(evaluation)
        out["benchmarks"][cell.part.name] = describe_benchmark(evaluation.benchmark)
        settings = dict(cell.result["settings"])
        if "corpus" in settings:
            words = describe_corpus(settings["corpus"])
            name = words["name"]
            if out["corpora"].get(name, words) != words:  # another file of this name
                name = f"{name} ({words['digest'][:8]})"
            out["corpora"][name] = words
            settings["corpus"] = name
        if "corpus_precision" in settings:
            settings["corpus_precision"] = text_precision(clip, settings["corpus_precision"])
        settings.pop("seed", None)  # stands under seeds
        names = [cell.part.name, cell.point.label, cell.variant.label]
        out["settings"][" · ".join(n for n in names if n)] = settings
        spent = out["seconds"].get(cell.variant.label, 0.0) + cell.result["seconds"]
        out["seconds"][cell.variant.label] = round(spent, 3)
        for stage, value in cell.result.get("stages", {}).items():
            out["stages"][stage] = round(out["stages"].get(stage, 0.0) + value, 3)
    return out


def stages(
    before: Mapping[str, float], after: Mapping[str, float], total: float
) -> dict[str, float]:
    """Seconds by stage that were added, and the rest of the total."""
    out: dict[str, float] = {}
    for stage, value in after.items():
        name = stage.split(":")[0]
        out[name] = out.get(name, 0.0) + value - before.get(stage, 0.0)
    out["other"] = max(0.0, total - sum(out.values()))
    return {name: round(value, 3) for name, value in out.items()}

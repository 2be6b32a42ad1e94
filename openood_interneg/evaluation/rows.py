"""Rows of the table: one per method, seed and data set, and the means over groups of sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.evaluation.metrics import METRICS
from openood_interneg.evaluation.protocols import Run


@dataclass
class Results:
    """What an evaluation gives.

    Attributes:
        rows: one per (method, seed, data set), keys as in `results.json`; percent.
        scores: (method, seed, data set) -> `Run`, for plots.
        mined: how many texts passed and the first ones, by method.
        seconds: wall time by stage.
        settings: settings in full, by method.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[tuple[str, int, str], Run] = field(default_factory=dict)
    mined: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def group_means(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> list[dict[str, Any]]:
    """Rows `nearood` and `farood`: means over the sets of a group that has any.

    Args:
        rows: one per OOD set, in the order of `benchmark.ood`.
        benchmark: says which sets are near and which are far.
    """
    out = []
    near = len(benchmark.near)
    for group, members in (("nearood", rows[:near]), ("farood", rows[near:])):
        if members:
            means = {m: float(np.mean([row[m] for row in members])) for m in METRICS}
            out.append(dict(members[0]) | {"dataset": group} | means)
    return out

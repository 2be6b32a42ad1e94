"""The page of `interneg demo`: the table, score histograms, false alarms along the stream, and
images that each method found, missed and falsely accused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openood_interneg.cli.demo_images import Streams, chosen, explained, unique
from openood_interneg.data.benchmark import Benchmark
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.protocols import mixed_order
from openood_interneg.evaluation.results import GROUPS, summary, title
from openood_interneg.evaluation.rows import Results
from openood_interneg.evaluation.stream_metrics import TPR, sliding_shares
from openood_interneg.reproduce import panels, style
from openood_interneg.reproduce.page import template
from openood_interneg.settings import MethodSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS = 33  # along a stream
TRIES = (
    ("your own photographs", "interneg score PHOTOS --id-images CLASSES"),
    ("a benchmark of OpenOOD", "interneg eval --bench cifar10 --data-root DATA"),
)


def page(
    evaluation: Evaluation,
    plans: Sequence[tuple[Method, MethodSettings]],
    seeds: Sequence[int],
    batch_size: int = 256,
) -> str:
    """One self-contained HTML page.

    Args:
        evaluation: that has run, with the protocol "mixed".
        plans: the methods whose images are explained, with their settings.
        seeds: that it ran with; images and histograms are those of the first.
        batch_size: that it ran with.
    """
    results, benchmark = evaluation.results, evaluation.benchmark
    names = list(dict.fromkeys(row["method"] for row in results.rows))
    shown = {name: _streams(results, benchmark, name, seeds[0]) for name in names}
    methods = [
        {
            "title": title(name),
            "figures": [_histogram(name, group, own) for group, own in shown[name].items()],
        }
        for name in names
    ]
    galleries = [
        (
            method.title,
            list(_gallery(evaluation, method, settings, seeds[0], batch_size, shown[method.name])),
        )
        for method, settings in plans
    ]
    return template("demo.html", "cli").render(
        table=_table(results, benchmark),
        counts={"ID": len(benchmark.test)} | {o.name: len(o) for o in benchmark.ood},
        near=[images.name for images in benchmark.near],
        far=[images.name for images in benchmark.far],
        seeds=len(seeds),
        methods=methods,
        along=_along(results, benchmark, names, seeds),
        galleries=galleries,
        opened=get_method("interneg").title,
        target=round(100 * (1 - TPR)),
        tries=TRIES,
    )


def _streams(results: Results, benchmark: Benchmark, method: str, seed: int) -> dict[str, Streams]:
    """Streams by group, "near OOD" and "far OOD", where the benchmark has such sets."""
    groups = {"near OOD": benchmark.near, "far OOD": benchmark.far}
    return {
        group: Streams({images.name: results.scores[method, seed, images.name] for images in sets})
        for group, sets in groups.items()
        if sets
    }


def _table(results: Results, benchmark: Benchmark) -> dict[str, Any]:
    """Columns, and of each method a figure with its spread for each; the best are marked."""
    data = summary(results.rows)
    sets = []
    for group, members in (("nearood", benchmark.near), ("farood", benchmark.far)):
        mean = [group] if len(members) > 1 else []  # of one set it would be that set again
        sets += mean + [images.name for images in members]
    by = data.set_index(["method", "dataset"])
    columns = [(name, metric) for name in sets for metric in ("FPR@95", "AUROC")]
    rows = {
        method: [
            (
                f"{by.loc[(method, name), metric]:.2f}",
                f"{by.loc[(method, name), metric + '_std']:.2f}",
            )
            for name, metric in columns
        ]
        for method in dict.fromkeys(data["method"])
    }
    best = [
        (min if metric == "FPR@95" else max)(float(row[i][0]) for row in rows.values())
        for i, (_, metric) in enumerate(columns)
    ]
    return {
        "sets": [GROUPS.get(name, name) for name in sets],
        "rows": [
            (
                title(method),
                [(*cell, float(cell[0]) == top) for cell, top in zip(row, best, strict=True)],
            )
            for method, row in rows.items()
        ],
    }


def _histogram(method: str, group: str, streams: Streams) -> dict[str, str]:
    threshold = streams.threshold
    said = f"{streams.caught:.1f} % of the {group} images are below the threshold, {threshold:.3g}"
    svg = _svg(
        f"scores-{method}-{group.split()[0]}",
        panels.judged_histogram,
        streams.id_score,
        streams.ood_score,
        group,
        threshold,
    )
    alt = f"Histogram of {title(method)}'s scores of ID images and {group} images; {said}"
    return {"svg": svg, "alt": alt, "title": f"ID and {group}: {said}"}


def _along(
    results: Results, benchmark: Benchmark, names: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, str]]:
    """A figure per group: false alarms of each method along the stream."""
    lines: dict[str, dict[str, list[float]]] = {}
    for name in names:
        found: dict[str, list[list[float]]] = {}
        for seed in seeds:
            for group, streams in _streams(results, benchmark, name, seed).items():
                threshold = streams.threshold
                for run in streams.runs.values():
                    order = mixed_order(len(run.id_score), len(run.ood_score), seed)
                    own = run.id_score[order[order < len(run.id_score)]]
                    shares = sliding_shares(own < threshold, WINDOWS)
                    found.setdefault(group, []).append(shares)
        for group, every in found.items():
            lines.setdefault(group, {})[title(name)] = np.mean(every, axis=0).tolist()
    colours = {title(name): style.method_colour(name) for name in names}
    return [
        {
            "svg": _svg(
                f"along-{group.split()[0]}",
                panels.sliding_alarms,
                of_methods,
                colours,
                100 * (1 - TPR),
            ),
            "title": f"Streams of ID and {group}",
            "alt": f"False alarms along the streams of ID and {group}: "
            + "; ".join(
                f"{label} {line[0]:.1f} % in the first window, {line[-1]:.1f} % in the last"
                for label, line in of_methods.items()
            ),
        }
        for group, of_methods in lines.items()
    ]


def _gallery(
    evaluation: Evaluation,
    method: Method,
    settings: MethodSettings,
    seed: int,
    batch_size: int,
    groups: Mapping[str, Streams],
) -> Iterator[tuple[str, float, dict[str, list[dict[str, Any]]]]]:
    """Of each group its name, the threshold, and the images of each kind."""
    kinds = {group: chosen(streams) for group, streams in groups.items()}
    every = unique(images for by in kinds.values() for images in by.values())
    shown = explained(evaluation, method, settings, seed, batch_size, every)
    for group, by in kinds.items():
        images = {kind: [shown[image] for image in found] for kind, found in by.items()}
        yield group, groups[group].threshold, images


def _svg(name: str, draw: Callable[..., Figure], *inputs: Any) -> str:
    with style.page_style():
        return style.as_svg(draw(*inputs), name).replace(style.INK, "currentColor")

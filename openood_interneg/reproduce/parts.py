"""The data of an experiment's parts: which images are tested, and which become proxies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.evaluation.streams import counts_at
from openood_interneg.negatives.proxies import sample_per_class
from openood_interneg.reproduce.experiment import SETS, Part
from openood_interneg.reproduce.experiment_files import experiments_root


def part_benchmark(
    part: Part, bench: str | None, data_root: str | Path | None, limit: int | None
) -> tuple[Benchmark, Benchmark]:
    """The whole benchmark of a part, and the same with the part's OOD sets only.

    Args:
        part: of an experiment.
        bench: a substitute, or None for the paper's own.
        data_root: folder of the images, or None for the default.
        limit: largest number of images per test set, or None.

    Raises:
        BenchmarkError: data not there, or a part that is left without OOD sets.
    """
    source: str | Path = bench or part.benchmark
    if not bench and str(source).endswith(".yml"):
        source = experiments_root() / source
    if part.proxies_from_test:  # out of all test images; what is left is limited
        whole = with_proxies_from_test(load_benchmark(source, data_root), part.proxies_from_test)
        whole = limited(whole, limit)
    else:
        whole = load_benchmark(source, data_root, limit=limit)
    near = tuple(images for images in whole.near if part.sets in ("near", "all", images.name))
    far = tuple(images for images in whole.far if part.sets in ("far", "all", images.name))
    if not near + far:
        known = ", ".join(images.name for images in whole.ood)
        kind = f"{part.sets} OOD set" if part.sets in SETS else f"OOD set '{part.sets}'"
        raise BenchmarkError(f"benchmark '{whole.name}' has no {kind}; it has {known}")
    return whole, replace(whole, near=near, far=far)


def limited(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """At most so many images of the test set and of each OOD set, drawn evenly from the lists."""
    near = tuple(images.evenly(limit) for images in benchmark.near)
    far = tuple(images.evenly(limit) for images in benchmark.far)
    return replace(benchmark, test=benchmark.test.evenly(limit), near=near, far=far)


def with_proxies_from_test(benchmark: Benchmark, per_class: int, seed: int = 0) -> Benchmark:
    """The benchmark whose proxies come from its own test images; those are not tested.

    Raises:
        ProxyError: a class without test images.
    """
    test = benchmark.test
    chosen = np.sort(
        sample_per_class(
            test.labels,
            len(benchmark.class_names),
            per_class,
            select="random",
            seed=seed,
            class_names=benchmark.class_names,
        )
    )
    rest = np.setdiff1d(np.arange(len(test)), chosen)
    train = replace(test.subset(chosen), name=f"{test.name}_proxies")
    return replace(benchmark, train=train, test=test.subset(rest))


def ratio_counts(wanted: tuple[int, int], id_size: int, ood_size: int) -> tuple[int, int]:
    """How many ID and OOD images are drawn for a point of Figure 3.

    The paper draws up to 10,000 ID and 1,000 OOD images. Where there are fewer, both counts are
    scaled by the same factor, so that the ratio stays; each is at least 1.
    """
    return counts_at(wanted, min(id_size, wanted[0]), min(ood_size, wanted[1]))


def sample_indices(size: int, count: int, seed: int) -> np.ndarray:
    """`count` distinct indices below `size`, sorted; the seed decides which."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.permutation(size)[:count])

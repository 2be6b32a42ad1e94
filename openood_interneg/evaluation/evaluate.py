"""Runs methods over a benchmark and collects rows of the table.

Images are encoded once; every method, seed and protocol is a replay of stored features.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.encode import Encoder, FeatureKind, ListedIdImages, Progress, kind_name
from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.store import Store
from openood_interneg.detectors.base import Detector, DetectorError
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.checks import check_image_names, check_plans
from openood_interneg.evaluation.metrics import ood_metrics
from openood_interneg.evaluation.protocols import (
    FeatureSet,
    Observer,
    Protocol,
    Run,
    check_protocol,
    run_mixed,
    run_openood,
)
from openood_interneg.evaluation.rows import Results, group_means
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import Inversion, StoredInverters
from openood_interneg.settings import MethodSettings, as_mapping
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess


class Evaluation:
    """A benchmark, a backbone and the stores, ready to run any number of methods.

    Args:
        benchmark: what is evaluated.
        backbone: the frozen model.
        store: where features, texts and inversions are kept.
        preprocess: by default the backbone's own.
        encode_batch: images per forward pass.
        workers: processes that read images.
        progress: told of images and texts encoded.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        backbone: Backbone,
        store: Store | None = None,
        *,
        preprocess: Preprocess | None = None,
        encode_batch: int = 128,
        workers: int = 0,
        progress: Progress | None = None,
    ):
        self.benchmark, self.backbone = benchmark, backbone
        self.store = store or Store(None)
        self.encoder = Encoder(
            backbone,
            self.store,
            preprocess=preprocess,
            batch_size=encode_batch,
            workers=workers,
            progress=progress,
        )
        train = benchmark.train
        self.source = TextSpaceBuilder(
            backbone,
            benchmark.class_names,
            ListedIdImages(train, self.encoder) if train is not None else None,
            self.store,
            progress,
        )
        self.results = Results()
        self._features: dict[tuple[str, FeatureKind], Tensor] = {}
        self.inverters = StoredInverters(self.store)

    # ---- what is shared ------------------------------------------------------------------

    def check(self, plans: Sequence[tuple[Method, MethodSettings]]) -> None:
        """Looks for every image that the methods will read, before any work.

        Raises:
            BenchmarkError: missing images.
            ProxyError: a class without ID images.
            SettingsError: a method needs ID images, and the benchmark has none.
        """
        check_plans(self.benchmark, plans)

    def feature_set(self, images: ImageList, kind: FeatureKind = "image") -> FeatureSet:
        """Features of a test or OOD set, encoded at the first call.

        Args:
            images: the set.
            kind: what a method's features are of; `method_sets` gives the sets of a method.
        """
        # By what the images are, never by what the set is called.
        key = (images.digest, kind)
        if key not in self._features:
            with self._timed("images" if kind == "image" else kind_name(kind)):
                self._features[key] = self.encoder.features(images, kind)
        ids = image_ids(images.paths)
        return FeatureSet(images.name, self._features[key], ids, images.labels)

    def method_sets(
        self, method: Method, settings: MethodSettings
    ) -> tuple[FeatureSet, list[FeatureSet]]:
        """The ID set and the OOD sets with the features that a method takes.

        Raises:
            BenchmarkError: the method finds an image by its name, and two images share one.
        """
        check_image_names(self.benchmark, method)
        kind = method.features_of(settings)
        id_set = self.feature_set(self.benchmark.test, kind)
        return id_set, [self.feature_set(images, kind) for images in self.benchmark.ood]

    def detector(
        self,
        method: Method,
        settings: MethodSettings,
        inverter_of: Callable[[Inversion], Inverter] | None = None,
    ) -> Detector:
        """A detector of a method, fitted to the benchmark's classes.

        Args:
            method: of the registry, or one's own.
            settings: of the method.
            inverter_of: in place of `inverters`, which keep what was computed.
        """
        with self._timed("text space"):
            return method.fitted(settings, self.source, inverter_of or self.inverters)

    def restricted(self, benchmark: Benchmark) -> Evaluation:
        """The same evaluation with some of the OOD sets; features and texts are shared.

        Args:
            benchmark: this one with fewer OOD sets.
        """
        other = copy.copy(self)
        other.benchmark = benchmark
        return other

    # ---- running -------------------------------------------------------------------------

    def run(
        self,
        name: str,
        settings: MethodSettings,
        *,
        protocol: Protocol = "mixed",
        seed: int = 0,
        batch_size: int = 256,
        method: Method | None = None,
        observers: Sequence[Observer] = (),
    ) -> list[dict[str, Any]]:
        """Runs one method with one seed over all OOD sets.

        The seed orders the stream and, in methods that draw random numbers, takes the place of
        their setting `seed`.

        Args:
            name: shown in the rows; the registry's name unless `method` is given.
            settings: of the method.
            protocol: the order of the stream, and when memories are cleared.
            seed: of the run.
            batch_size: images per step.
            method: one that is not in the registry.
            observers: told of each batch after it was scored.

        Returns:
            The rows added to `results`.
        """
        method = method or get_method(name)
        check_protocol(protocol)
        settings = with_seed(settings, seed)
        id_set, ood_sets = self.method_sets(method, settings)
        detector = self.detector(method, settings)
        with self._timed(f"stream: {name}"):
            if protocol == "mixed":
                runs = [
                    run_mixed(detector, id_set, ood, seed, batch_size, observers)
                    for ood in ood_sets
                ]
            else:
                runs = run_openood(detector, id_set, ood_sets, batch_size, observers)
        self.inverters.flush()
        self.results.settings[name] = as_mapping(settings)
        return self.add(name, protocol, seed, id_set, ood_sets, runs)

    def add(
        self,
        name: str,
        protocol: str,
        seed: int,
        id_set: FeatureSet,
        ood_sets: Sequence[FeatureSet],
        runs: Sequence[Run],
    ) -> list[dict[str, Any]]:
        """Adds the rows of one method and seed: one per OOD set, then the means of the groups."""
        common = {
            "benchmark": self.benchmark.name,
            "backbone": self.backbone.name,
            "method": name,
            "protocol": protocol,
            "seed": seed,
        }
        rows = []
        for ood, run in zip(ood_sets, runs, strict=True):
            scores = np.concatenate([run.id_score, run.ood_score])
            if lost := int((~np.isfinite(scores)).sum()):
                raise DetectorError(
                    f"method '{name}' gives NaN or infinity for {lost} of {len(scores)} images "
                    f"(ID and '{ood.name}'); its settings do not suit these features"
                )
            values = ood_metrics(run.id_score, run.ood_score, run.id_pred, id_set.labels)
            rows.append(common | {"dataset": ood.name} | values)
            self.results.scores[name, seed, ood.name] = run
        rows += group_means(rows, self.benchmark)
        self.results.rows += rows
        return rows

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.results.seconds[stage] += time.perf_counter() - start


M = TypeVar("M", bound=MethodSettings)


def with_seed(settings: M, seed: int) -> M:
    """The settings with this seed, where they have one: where the method draws random numbers."""
    return replace(settings, **{"seed": seed}) if hasattr(settings, "seed") else settings

"""How a cell of each kind of experiment is run: table, sweep, errors, ratios, streams and timing.

A runner gives, for each OOD set, the figures that tables and plots are made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.encode import Encoder
from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.store import Store, atomic_path
from openood_interneg.detectors.method import live
from openood_interneg.evaluation.metrics import METRICS, ood_metrics
from openood_interneg.evaluation.protocols import FeatureSet, run_mixed
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.stored_inversion import Inversion
from openood_interneg.reproduce.cell_run import CellRun, Figures
from openood_interneg.reproduce.error_types import BestLogits, error_rates, unit_score
from openood_interneg.reproduce.parts import ratio_counts, sample_indices
from openood_interneg.reproduce.streams import run_streams
from openood_interneg.settings import SettingsError


def run_table(run: CellRun) -> Figures:
    """The metrics of each OOD set; the scores go to a file."""
    experiment, cell, results = run.experiment, run.cell, run.evaluation.results
    before = len(results.rows)
    rows = run.evaluation.run(
        cell.variant.method,
        run.settings,
        protocol=experiment.protocol,
        seed=cell.seed,
        batch_size=experiment.batch_size,
    )
    del results.rows[before:]
    out, arrays = {}, {}
    for images in run.evaluation.benchmark.ood:
        row = next(row for row in rows if row["dataset"] == images.name)
        out[images.name] = {m: round(row[m], 6) for m in METRICS}
        scores = results.scores.pop((cell.variant.method, cell.seed, images.name))
        arrays[f"{images.name}.id"] = scores.id_score.astype(np.float32)
        arrays[f"{images.name}.ood"] = scores.ood_score.astype(np.float32)
    with atomic_path(run.scores) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # names are the sets' own
    return out


def run_errors(run: CellRun) -> Figures:
    """Max-OOD and Sum-OOD dominant error rates over the thresholds."""
    detector = run.evaluation.detector(run.method, run.settings)
    id_set, ood_sets = run.evaluation.method_sets(run.method, run.settings)
    out = {}
    for ood in ood_sets:
        best = BestLogits(detector, len(id_set) + len(ood))
        scores = run_mixed(detector, id_set, ood, run.cell.seed, run.experiment.batch_size, [best])
        score = unit_score(detector, np.concatenate([scores.id_score, scores.ood_score]))
        own = slice(len(id_set))
        rates = error_rates(score[own], best.of_labels[own], best.of_negatives[own])
        half = rates.gammas.tolist().index(0.5)
        out[ood.name] = {
            "Max-OOD": round(float(rates.max_ood[half]), 4),
            "Sum-OOD": round(float(rates.sum_ood[half]), 4),
            "max_ood": rates.max_ood.round(4).tolist(),
            "sum_ood": rates.sum_ood.round(4).tolist(),
        }
    run.evaluation.inverters.flush()
    return out


def run_ratios(run: CellRun) -> Figures:
    """The metrics at the point's ratio of ID to OOD images."""
    if run.cell.point.counts is None:
        raise SettingsError(f"point '{run.cell.point.label}' of {run.experiment.id} has no counts")
    seed = run.cell.seed
    detector = run.evaluation.detector(run.method, run.settings)
    id_all, ood_sets = run.evaluation.method_sets(run.method, run.settings)
    out = {}
    for ood_all in ood_sets:
        counts = ratio_counts(run.cell.point.counts, len(id_all), len(ood_all))
        id_set = _subset(id_all, sample_indices(len(id_all), counts[0], seed))
        ood = _subset(ood_all, sample_indices(len(ood_all), counts[1], seed + 1000))
        scores = run_mixed(detector, id_set, ood, seed, run.experiment.batch_size)
        values = ood_metrics(scores.id_score, scores.ood_score, scores.id_pred, id_set.labels)
        out[ood_all.name] = {k: round(v, 6) for k, v in values.items()} | {"counts": counts}
    run.evaluation.inverters.flush()
    return out


def run_timing(run: CellRun) -> Figures:
    """Seconds per image by stage; nothing that was stored is used."""
    evaluation, half = run.evaluation, run.experiment.images // 2
    device = evaluation.backbone.device
    clock = _Clock(device)
    detector = evaluation.detector(run.method, run.settings, clock.of)
    out = {}
    for ood in evaluation.benchmark.ood:
        some = (evaluation.benchmark.test.evenly(half), ood.evenly(half))
        fresh = Encoder(
            evaluation.backbone,
            Store(None),
            preprocess=evaluation.encoder.preprocess,
            batch_size=run.options.encode_batch,
            workers=run.options.workers,
        )
        kind = run.method.features_of(run.settings)
        _wait(device)
        start = time.perf_counter()
        id_set, ood_set = (
            FeatureSet(
                images.name,
                fresh.features(images, kind),
                image_ids(images.paths),
                images.labels,
            )
            for images in some
        )
        _wait(device)
        encoded = time.perf_counter()
        before = clock.seconds
        run_mixed(detector, id_set, ood_set, run.cell.seed, run.experiment.batch_size)
        _wait(device)
        total, count = time.perf_counter() - encoded, len(id_set) + len(ood_set)
        inversion = clock.seconds - before
        out[ood.name] = {
            "seconds": round((total + encoded - start) / count, 7),
            "reading and encoding": round((encoded - start) / count, 7),
            "scoring": round((total - inversion) / count, 7),
            "inversion": round(inversion / count, 7),
            "images": count,
        }
    return out


RUNNERS: Mapping[str, Callable[[CellRun], Figures]] = {
    "table": run_table,
    "sweep": run_table,
    "errors": run_errors,
    "ratios": run_ratios,
    "streams": run_streams,
    "timing": run_timing,
}


class _Clock:
    """Counts the seconds spent in inverters that keep nothing."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def of(self, inversion: Inversion) -> Inverter:
        """The inverter whose seconds are counted."""
        inverter = live(inversion)

        def timed(features: Tensor, ids: Tensor) -> Tensor:
            _wait(self.device)
            start = time.perf_counter()
            rows = inverter(features, ids)
            _wait(self.device)
            self.seconds += time.perf_counter() - start
            return rows

        return timed


def _subset(features: FeatureSet, at: np.ndarray) -> FeatureSet:
    rows = torch.from_numpy(at)
    return FeatureSet(
        features.name, features.features[..., rows, :], features.ids[rows], features.labels[at]
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

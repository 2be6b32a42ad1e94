"""Runs an experiment cell by cell. A finished cell is on disk at once.

A cell's file is named by a digest of everything that decides its outcome (weights, image lists,
corpus, settings, protocol, seed), so experiments share cells, and an interrupted run continues
where it stopped.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openood_interneg.data.digests import digest
from openood_interneg.data.encode import Progress
from openood_interneg.data.store import Store
from openood_interneg.detectors.registry import get_method
from openood_interneg.reproduce.cell_run import CellRun
from openood_interneg.reproduce.cells import (
    Cell,
    cell_key,
    cell_settings,
    cells_of,
    number_of_cells,
)
from openood_interneg.reproduce.exhibits import make_exhibit
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.kinds import RUNNERS
from openood_interneg.reproduce.options import Options
from openood_interneg.reproduce.record import experiment_record, stages
from openood_interneg.reproduce.resources import Resources
from openood_interneg.reproduce.sealed import file_digest, read_sealed, write_sealed
from openood_interneg.settings import InternegError, as_mapping


class Reproduction:
    """Runs experiments; what they share is loaded once, and finished cells are found again.

    Args:
        options: the user's choices.
        store: features, texts and inversions.
        out: folder of the results; cells go to `out/cells`.
        log: gets a line of text for each cell.
        progress: told of images and texts encoded.
    """

    def __init__(
        self,
        options: Options,
        store: Store,
        out: Path,
        log: Callable[[str], None],
        progress: Progress | None = None,
    ):
        self.options, self.log = options, log
        self.folder = Path(out) / "cells"
        self.resources = Resources(options, store, progress)

    def run(self, experiment: Experiment) -> dict[str, Any]:
        """Runs all cells that are not on disk; the outcome as plain values.

        A cell that cannot run here (no weights, no data, a setting that the corpus is too small
        for) says why and leaves its place in the table empty.
        """
        started = time.perf_counter()
        cells = cells_of(experiment, self.options)
        found = computed = 0
        for number, cell in enumerate(cells, 1):
            try:
                cell.result, was_there = self._cell(experiment, cell)
                found, computed = found + was_there, computed + (not was_there)
                note = "found" if was_there else f"{cell.result['seconds']:.1f} s"
            except InternegError as error:
                cell.result = {"unavailable": " ".join(str(error).split())}
                note = "not available"
            self.log(f"{experiment.id} {number}/{len(cells)} {cell.title}: {note}")
        exhibit = self._exhibit(experiment, cells)
        return {
            "experiment": experiment.id,
            "title": experiment.title,
            "source": experiment.source,
            "kind": experiment.kind,
            "substitute": self.options.substitute,
            "limit": self.options.limit,
            "short": len(cells) < number_of_cells(experiment, self.options),
            "cells": [cell.coordinates | cell.result for cell in cells],
            "exhibit": exhibit,
            "unavailable": _reasons(experiment, cells),
            "provenance": experiment_record(experiment, cells, self.resources),
            "seconds": round(time.perf_counter() - started, 2),
            "found": found,
            "computed": computed,
        }

    def _cell(self, experiment: Experiment, cell: Cell) -> tuple[dict[str, Any], bool]:
        """A cell's result, and whether it was there."""
        self.resources.check_images(cell.part)
        settings = cell_settings(experiment, cell, self.options)
        evaluation = self.resources.evaluation(
            cell.part, self.resources.backbone(cell.backbone), experiment.preprocess
        )
        name = digest(cell_key(experiment, cell, evaluation, settings))
        path = self.folder / f"{name}.json"
        scores = path.with_suffix(".npz")
        if not self.options.fresh and (finished := _finished(path, scores)) is not None:
            return finished, True
        start, before = time.perf_counter(), dict(evaluation.results.seconds)
        figures = RUNNERS[experiment.kind](
            CellRun(experiment, cell, evaluation, settings, self.options, scores)
        )
        seconds = time.perf_counter() - start
        result = {
            "cell": name,
            "sets": figures,
            "near": [images.name for images in evaluation.benchmark.near],
            "settings": as_mapping(settings),
            "seconds": round(seconds, 3),
            "stages": stages(before, evaluation.results.seconds, seconds),
        }
        if scores.is_file():
            result["scores"] = file_digest(scores)
        return write_sealed(path, result), False

    def _exhibit(self, experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Any] | None:
        """Examples, mined words and the bank, for the first cell of the method named."""
        ran = (cell for cell in cells if "unavailable" not in cell.result)
        cell = next((cell for cell in ran if cell.variant.label == experiment.exhibit), None)
        if cell is None:
            return None
        evaluation = self.resources.evaluation(
            cell.part, self.resources.backbone(cell.backbone), experiment.preprocess
        )
        settings = cell_settings(experiment, cell, self.options)
        name = digest(["exhibit", cell_key(experiment, cell, evaluation, settings)])
        path = self.folder / f"{name}.json"
        if self.options.fresh or read_sealed(path) is None:
            method = get_method(cell.variant.method)
            exhibit = make_exhibit(
                evaluation,
                method,
                evaluation.detector(method, settings),
                settings,
                cell.seed,
                experiment.batch_size,
            )
            evaluation.inverters.flush()
            write_sealed(path, exhibit | {"of": cell.coordinates})
        return {"cell": name, "of": cell.coordinates}


def _finished(path: Path, scores: Path) -> dict[str, Any] | None:
    """A finished cell as it was written, with its scores; None where it must be computed."""
    cell = read_sealed(path)
    if cell is None:
        return None
    if cell.get("cell") != path.stem:
        warnings.warn(f"{path} is another cell; it is not used", stacklevel=2)
        return None
    if cell.get("scores") != (file_digest(scores) if "scores" in cell else None):
        warnings.warn(f"{scores} is damaged or missing; its cell is computed anew", stacklevel=2)
        return None
    return cell


def _reasons(experiment: Experiment, cells: Sequence[Cell]) -> list[str]:
    """Why cells could not run, each reason once, with the methods where it is not all of them."""
    reasons: dict[str, dict[str, None]] = {}
    for cell in cells:
        if "unavailable" in cell.result:
            reasons.setdefault(cell.result["unavailable"], {})[cell.variant.label] = None
    return [
        why if len(who) == len(experiment.methods) else f"{', '.join(who)}: {why}"
        for why, who in reasons.items()
    ]

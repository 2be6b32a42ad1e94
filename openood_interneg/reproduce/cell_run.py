"""What the runner of a cell is given, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.reproduce.cells import Cell
from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.options import Options
from openood_interneg.settings import MethodSettings

Figures = dict[str, dict[str, Any]]  # OOD set -> name of a figure -> value


@dataclass(frozen=True)
class CellRun:
    """What a runner is given.

    Attributes:
        experiment: whose cell it is.
        cell: what is run.
        evaluation: benchmark, backbone and what they share with other cells.
        settings: of the cell's method.
        options: the user's choices.
        scores: file to which a runner may write the scores of the images.
    """

    experiment: Experiment
    cell: Cell
    evaluation: Evaluation
    settings: MethodSettings
    options: Options
    scores: Path

    @property
    def method(self) -> Method:
        """The cell's method."""
        return get_method(self.cell.variant.method)

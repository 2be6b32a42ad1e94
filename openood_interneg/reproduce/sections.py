"""One experiment as reports show it, in whatever format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openood_interneg.reproduce.experiment import Experiment
from openood_interneg.reproduce.kept_figures import Drawn
from openood_interneg.reproduce.tables import ResultTable, set_name

NOT_PAPER = "not the paper's data: figures are not comparable with the published column"


@dataclass(frozen=True)
class Section:
    """One experiment as a page shows it."""

    experiment: Experiment
    result: Mapping[str, Any]
    table: ResultTable
    figures: list[Drawn]
    exhibit: Mapping[str, Any] | None

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before reading a figure."""
        out = []
        if self.result["substitute"]:
            out.append(f"Run on {Path(self.result['substitute']).stem}, {NOT_PAPER}.")
        if self.result["limit"]:
            out.append(f"At most {self.result['limit']} images of each test set were used.")
        if self.result["short"]:
            out.append("Fewer points of the sweep were run than for the paper's data.")
        if self.experiment.protocol == "openood":
            out.append(
                "Protocol openood scores all ID images before any OOD image was seen; figures of "
                "methods with a memory are not comparable with the paper's."
            )
        out += [f"Not run here: {reason}" for reason in self.result["unavailable"]]
        return out

    def set_name(self, name: str) -> str:
        """How an OOD set is printed."""
        return set_name(self.experiment, self.result, name)

    @property
    def conventions(self) -> bool:
        """Whether the table has published figures of FPR@95, whose conventions must be told."""
        return any(value.published_fpr for value in self.table.values.values())

"""Images on the demo's page: what each method found, missed and falsely accused, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from openood_interneg.detectors.method import Method
from openood_interneg.detectors.watched import rank_reached
from openood_interneg.evaluation.evaluate import Evaluation, with_seed
from openood_interneg.evaluation.protocols import Run, run_mixed
from openood_interneg.evaluation.stream_metrics import TPR
from openood_interneg.reproduce.exhibits import Examples
from openood_interneg.settings import MethodSettings

SHOWN = 3  # images of each kind
REMEMBERED = 2  # of the five negatives under an image


@dataclass(frozen=True)
class Streams:
    """One method's streams of one group of OOD sets, near or far, judged by one threshold.

    Attributes:
        runs: OOD set -> its stream's scores.
    """

    runs: dict[str, Run]

    @property
    def id_score(self) -> np.ndarray:
        """Scores of the ID images in every stream."""
        return np.concatenate([run.id_score for run in self.runs.values()])

    @property
    def ood_score(self) -> np.ndarray:
        """Scores of the OOD images."""
        return np.concatenate([run.ood_score for run in self.runs.values()])

    @property
    def threshold(self) -> float:
        """The largest score that at least 95 % of the ID images reach."""
        return float(np.sort(self.id_score)[rank_reached(len(self.id_score), TPR)])

    @property
    def caught(self) -> float:
        """Percentage of the OOD images below the threshold."""
        return 100.0 * float(np.mean(self.ood_score < self.threshold))


class Shown(NamedTuple):
    """An image to be shown: its score, whether it is OOD, the OOD set of its stream, its place in
    its list."""

    score: float
    ood: bool
    stream: str
    place: int


def chosen(streams: Streams) -> dict[str, list[Shown]]:
    """OOD images found (lowest scores), missed (highest), ID images accused (lowest)."""
    low = streams.threshold
    ood = [
        Shown(float(score), True, name, place)
        for name, run in streams.runs.items()
        for place, score in enumerate(run.ood_score)
    ]
    own = sorted(
        Shown(float(score), False, name, place)
        for name, run in streams.runs.items()
        for place, score in enumerate(run.id_score)
        if score < low
    )
    ood.sort()
    once = {image.place: image for image in reversed(own)}  # it comes in every stream
    return {
        "found": [image for image in ood if image.score < low][:SHOWN],
        "missed": [image for image in reversed(ood) if image.score >= low][:SHOWN],
        "accused": sorted(once.values())[:SHOWN],
    }


def explained(
    evaluation: Evaluation,
    method: Method,
    settings: MethodSettings,
    seed: int,
    batch_size: int,
    images: Iterable[Shown],
) -> dict[Shown, dict[str, Any]]:
    """What a page shows of images: thumbnail, name, label, score, nearest labels and negatives.

    A method with a memory replays the stream, and is asked with the memory of the stream's end.

    Args:
        evaluation: that gave the scores.
        method: that gave them.
        settings: of the method.
        seed: of the stream's order.
        batch_size: images per step of the stream.
        images: of the method's streams.
    """
    wanted: dict[str, list[Shown]] = defaultdict(list)
    for image in images:
        wanted[image.stream].append(image)
    settings = with_seed(settings, seed)
    detector = evaluation.detector(method, settings)
    id_set, ood_sets = evaluation.method_sets(method, settings)
    out = {}
    for listed, ood_set in zip(evaluation.benchmark.ood, ood_sets, strict=True):
        here = wanted[listed.name]
        if here and method.state:
            run_mixed(detector, id_set, ood_set, seed, batch_size)
        sides = (evaluation.benchmark.test, id_set), (listed, ood_set)
        examples = Examples(evaluation, detector, *sides)
        for image in here:
            side = "ood" if image.ood else "id"
            values = examples.example(side, image.place, image.score, REMEMBERED)
            out[image] = values | {"name": _name(values["name"], image)}
    return out


def _name(path: str, image: Shown) -> str:
    """`othershapes/test/whale/0003.png` -> `whale 0003 (othershapes)`; ID images have labels."""
    file = PurePosixPath(path)
    if not image.ood:
        return f"ID image {file.stem}"
    return f"{file.parent.name} {file.stem} ({image.stream})"


def unique(groups: Iterable[Sequence[Shown]]) -> list[Shown]:
    """All images, each once."""
    return list(dict.fromkeys(image for group in groups for image in group))

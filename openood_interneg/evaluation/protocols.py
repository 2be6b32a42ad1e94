"""In which order a stream is scored, and when memories are cleared.

`mixed` is the paper's: for every OOD set, the ID test images and that set are concatenated and
shuffled, and the detector starts fresh. `openood` is OpenOOD's own: all ID images first, then
each OOD set, the detector starting fresh at every loader. A method with a memory has seen no OOD
image when it scores the ID images of the second; its figures are not comparable with the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector
from openood_interneg.settings import SettingsError

Protocol = Literal["mixed", "openood"]
PROTOCOLS = ("mixed", "openood")


def check_protocol(name: str) -> None:
    """Asked before any work.

    Raises:
        SettingsError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise SettingsError(f"protocol is {name!r}; choose one of {', '.join(PROTOCOLS)}")


@dataclass(frozen=True)
class FeatureSet:
    """Features of one data set, ready to be replayed.

    Attributes:
        name: of the set. features: (n, D), or (V, n, D) for methods that take views.
        keys: (n,) int64 image keys. labels: (n,) int64, -1 for OOD.
    """

    name: str
    features: Tensor
    keys: Tensor
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Run:
    """Scores of one stream, back in the order of the lists: ID images, then OOD images."""

    id_pred: np.ndarray
    id_score: np.ndarray
    ood_score: np.ndarray


def mixed_order(num_id: int, num_ood: int, seed: int) -> np.ndarray:
    """Shuffled order of the concatenation [ID, OOD], (num_id + num_ood,) int64."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(num_id + num_ood)


def replay(
    detector: Detector,
    features: Tensor,
    keys: Tensor,
    batch_size: int,
    scored: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Feeds a stream to a detector from a fresh start; (pred, score) as numpy arrays (n,).

    Args:
        scored: told after each batch how many images it had.
    """
    detector.reset()
    preds, scores = [], []
    for begin in range(0, len(keys), batch_size):
        part = slice(begin, begin + batch_size)
        pred, score = detector.step(features[..., part, :], keys[part])
        preds.append(pred.cpu())
        scores.append(score.cpu())
        if scored is not None:
            scored(len(pred))
    return torch.cat(preds).numpy(), torch.cat(scores).numpy()


def run_mixed(
    detector: Detector,
    id_set: FeatureSet,
    ood_set: FeatureSet,
    seed: int,
    batch_size: int = 256,
    scored: Callable[[int], None] | None = None,
) -> Run:
    """The paper's protocol for one OOD set."""
    order = mixed_order(len(id_set), len(ood_set), seed)
    at = torch.from_numpy(order)
    features = torch.cat([id_set.features, ood_set.features], dim=-2)[..., at, :]
    keys = torch.cat([id_set.keys, ood_set.keys])[at]
    pred, score = replay(detector, features, keys, batch_size, scored)
    back = np.argsort(order)
    pred, score = pred[back], score[back]
    return Run(pred[: len(id_set)], score[: len(id_set)], score[len(id_set) :])


def run_openood(
    detector: Detector,
    id_set: FeatureSet,
    ood_sets: list[FeatureSet],
    batch_size: int = 256,
    scored: Callable[[int], None] | None = None,
) -> list[Run]:
    """OpenOOD's protocol: the ID set once, then each OOD set, a fresh start for each."""
    pred, score = replay(detector, id_set.features, id_set.keys, batch_size, scored)
    return [
        Run(pred, score, replay(detector, ood.features, ood.keys, batch_size, scored)[1])
        for ood in ood_sets
    ]

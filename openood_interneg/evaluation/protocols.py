"""The loop over a stream, in which order it is scored, and when memories are cleared.

`mixed` is the paper's: for every OOD set, the ID test images and that set are concatenated and
shuffled, and the detector starts fresh. `openood` is OpenOOD's own: all ID images first, then
each OOD set, the detector starting fresh at every loader. A method with a memory has seen no OOD
image when it scores the ID images of the second; its figures are not comparable with the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.settings import SettingsError

Protocol = Literal["mixed", "openood"]
PROTOCOLS = ("mixed", "openood")


def check_protocol(name: str) -> Protocol:
    """The protocol of a name; asked before any work.

    Raises:
        SettingsError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise SettingsError(f"protocol is {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return cast(Protocol, name)


@dataclass(frozen=True)
class FeatureSet:
    """Features of one data set, ready to be replayed.

    Attributes:
        name: of the set.
        features: (n, D), or (V, n, D) for methods that take views.
        ids: (n,) int64 image ids.
        labels: (n,) int64, -1 for OOD.
    """

    name: str
    features: Tensor
    ids: Tensor
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Run:
    """Scores of one stream, back in the order of the lists: ID images, then OOD images.

    Attributes:
        id_pred: (n,) classes of the ID images.
        id_score: (n,) their scores.
        ood_score: (m,) scores of the OOD images.
        ood_pred: (m,) the classes nearest to the OOD images.
        id_p: (n,) p-values of the ID images, of a method that has them.
        ood_p: (m,) p-values of the OOD images.
    """

    id_pred: np.ndarray
    id_score: np.ndarray
    ood_score: np.ndarray
    ood_pred: np.ndarray
    id_p: np.ndarray | None = None
    ood_p: np.ndarray | None = None


class Batch(NamedTuple):
    """What an observer is told of a batch, after the detector has scored it.

    Attributes:
        places: (B,) int64 places in the lists: ID images, then OOD images.
        features: (B, D) or (V, B, D).
        scores: what the detector said.
    """

    places: Tensor
    features: Tensor
    scores: Scores


Observer = Callable[[Batch], None]


def mixed_order(num_id: int, num_ood: int, seed: int) -> np.ndarray:
    """Shuffled order of the concatenation [ID, OOD], (num_id + num_ood,) int64."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(num_id + num_ood)


def stream_batches(
    detector: Detector, batches: Iterable[tuple[Tensor, Tensor]], observers: Sequence[Observer] = ()
) -> Scores:
    """Scores batches one after the other, from where the detector stands: the only such loop.

    Args:
        detector: fitted; `reset` it first where the stream is a new one.
        batches: features (B, D) or (V, B, D) and image ids (B,); at least one batch.
        observers: told of each batch after it was scored.

    Returns:
        Scores of n images, on the detector's device.
    """
    parts = []
    seen = 0
    for features, ids in batches:
        scores = detector.step(features, ids)
        parts.append(scores)
        places = torch.arange(seen, seen + len(scores.pred))
        seen += len(scores.pred)
        for observe in observers:
            observe(Batch(places, features, scores))
    return Scores.joined(parts)


def stream(
    detector: Detector,
    features: Tensor,
    ids: Tensor,
    batch_size: int,
    observers: Sequence[Observer] = (),
    order: np.ndarray | None = None,
) -> Scores:
    """Scores stored features as a stream, from where the detector stands.

    Args:
        detector: fitted; `reset` it first where the stream is a new one.
        features: (n, D) or (V, n, D), n > 0.
        ids: (n,) int64 image ids.
        batch_size: images per step.
        observers: told of each batch after it was scored.
        order: (n,) the place in the lists of the first image of the stream, of the second one, ...;
            by default the order of the lists.

    Returns:
        Scores of n images in the order of the lists, on the detector's device.
    """
    at = torch.arange(len(ids)) if order is None else torch.from_numpy(order)
    if order is not None:
        features, ids = features[..., at, :], ids[at]
    parts = (slice(begin, begin + batch_size) for begin in range(0, len(ids), batch_size))

    def in_lists(observe: Observer) -> Observer:
        return lambda batch: observe(batch._replace(places=at[batch.places]))

    scores = stream_batches(
        detector,
        ((features[..., part, :], ids[part]) for part in parts),
        [in_lists(observe) for observe in observers],
    )
    return scores.at(at.argsort())


def run_mixed(
    detector: Detector,
    id_set: FeatureSet,
    ood_set: FeatureSet,
    seed: int,
    batch_size: int = 256,
    observers: Sequence[Observer] = (),
) -> Run:
    """The paper's protocol for one OOD set, from a fresh start."""
    detector.reset()
    scores = stream(
        detector,
        torch.cat([id_set.features, ood_set.features], dim=-2),
        torch.cat([id_set.ids, ood_set.ids]),
        batch_size,
        observers,
        mixed_order(len(id_set), len(ood_set), seed),
    )
    pred, score, p = columns(scores)
    own = len(id_set)
    if p is None:
        return Run(pred[:own], score[:own], score[own:], pred[own:])
    return Run(pred[:own], score[:own], score[own:], pred[own:], p[:own], p[own:])


def columns(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """pred, score and p-values (None where the method has none) as arrays."""
    p = None if scores.p is None else scores.p.cpu().numpy()
    return scores.pred.cpu().numpy(), scores.score.cpu().numpy(), p


def run_openood(
    detector: Detector,
    id_set: FeatureSet,
    ood_sets: Sequence[FeatureSet],
    batch_size: int = 256,
    observers: Sequence[Observer] = (),
) -> list[Run]:
    """OpenOOD's protocol: the ID set once, then each OOD set, a fresh start for each."""

    def alone(one: FeatureSet) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        detector.reset()
        return columns(stream(detector, one.features, one.ids, batch_size, observers))

    pred, score, p = alone(id_set)
    found = [alone(ood) for ood in ood_sets]
    return [Run(pred, score, ood_score, ood_pred, p, ood_p) for ood_pred, ood_score, ood_p in found]

"""Streams as they come in use: imbalanced, in order, with a change of the kind of OOD, of few
classes.

A stream is made of one list, [ID images, first OOD set, second OOD set, ...]. It names places in
this list in the order in which they come, each at most once. Members and order are drawn with a
seed; nothing here looks at a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from openood_interneg.settings import SettingsError

Rng = np.random.Generator


class Pool(NamedTuple):
    """Places from which a stream is drawn.

    Attributes:
        id_places: (n,) int64 places of the ID images.
        id_labels: (n,) int64 their classes.
        ood_places: of each OOD set, (m,) int64, in the order in which a change of kind shows them.
        ratio: ID images to OOD images, where a stream has both.
    """

    id_places: np.ndarray
    id_labels: np.ndarray
    ood_places: tuple[np.ndarray, ...]
    ratio: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Course:
    """A stream's images in their order.

    Attributes:
        places: (n,) int64, without repetition.
        parts: (n,) int64, the part of the stream that an image belongs to: 0, 1, ... An OOD set is
            judged against the ID images of the parts in which it comes.
    """

    places: np.ndarray
    parts: np.ndarray


def counts_at(ratio: tuple[int, int], id_size: int, ood_size: int) -> tuple[int, int]:
    """The largest counts of ID and OOD images at a ratio; each is at least 1."""
    factor = min(id_size / ratio[0], ood_size / ratio[1])
    return max(1, round(ratio[0] * factor)), max(1, round(ratio[1] * factor))


def split_half(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of `count` places by chance, each sorted; the second has the odd one.

    Raises:
        ValueError: fewer than two.
    """
    if count < 2:
        raise ValueError(f"{count} cannot be halved")
    order = _rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _mixed(pool: Pool, rng: Rng) -> list[np.ndarray]:
    return [rng.permutation(np.concatenate(_drawn(pool, rng)))]


def _id_first(pool: Pool, rng: Rng) -> list[np.ndarray]:
    return [np.concatenate(_drawn(pool, rng))]


def _ood_first(pool: Pool, rng: Rng) -> list[np.ndarray]:
    own, ood = _drawn(pool, rng)
    return [np.concatenate([ood, own])]


def _change(pool: Pool, rng: Rng) -> list[np.ndarray]:
    """Each kind with its share of the ID images."""
    shares = np.array_split(rng.permutation(pool.id_places), len(pool.ood_places))
    return [
        _mixed(pool._replace(id_places=share, ood_places=(ood,)), rng)[0]
        for share, ood in zip(shares, pool.ood_places, strict=True)
        if len(share)
    ]


def _id_only(pool: Pool, rng: Rng) -> list[np.ndarray]:
    """Half of the ID images alone, then the others and OOD."""
    order = rng.permutation(pool.id_places)
    alone, rest = order[: len(order) // 2], order[len(order) // 2 :]
    return [alone, *_mixed(pool._replace(id_places=rest), rng)]


def _few_classes(pool: Pool, rng: Rng) -> list[np.ndarray]:
    """A fifth of the classes, at least two of them."""
    classes = np.unique(pool.id_labels)
    chosen = rng.permutation(classes)[: max(2, round(len(classes) / 5))]
    return _mixed(pool._replace(id_places=pool.id_places[np.isin(pool.id_labels, chosen)]), rng)


_MAKERS: Mapping[str, Callable[[Pool, Rng], list[np.ndarray]]] = {
    "mixed": _mixed,
    "id_first": _id_first,
    "ood_first": _ood_first,
    "change": _change,
    "id_only": _id_only,
    "few_classes": _few_classes,
}
STREAMS = tuple(_MAKERS)


def course(name: str, pool: Pool, seed: int) -> Course:
    """A stream of a pool.

    Args:
        name: one of `STREAMS`.
        pool: what there is.
        seed: draws the members and their order.

    Raises:
        SettingsError: no such stream.
    """
    check_stream(name)
    parts = _MAKERS[name](pool, _rng(seed))
    numbers = [np.full(len(part), number) for number, part in enumerate(parts)]
    return Course(np.concatenate(parts), np.concatenate(numbers))


def check_stream(name: str) -> None:
    """Asked before any work.

    Raises:
        SettingsError: no such stream.
    """
    if name not in _MAKERS:
        raise SettingsError(f"stream is {name!r}; choose one of {', '.join(STREAMS)}")


def pools(
    name: str,
    id_labels: np.ndarray,
    ood_sizes: Sequence[int],
    ratio: tuple[int, int] = (1, 1),
) -> list[tuple[Pool, tuple[int, ...]]]:
    """What the streams of one name are drawn from: each OOD set has its own, a change has one.

    Args:
        name: of the stream.
        id_labels: (n,) classes of the ID images, which stand first in the list.
        ood_sizes: of the OOD sets, which follow.
        ratio: of ID to OOD images.

    Returns:
        Pools, each with the numbers of its OOD sets. In a change of kind they come in the order of
        `ood_sizes` backwards: a benchmark lists its near sets first, and these come last.
    """
    ends = len(id_labels) + np.cumsum(ood_sizes)
    places = [np.arange(end - size, end) for end, size in zip(ends, ood_sizes, strict=True)]
    own = np.arange(len(id_labels))
    every = tuple(range(len(places)))
    groups = [every[::-1]] if name == "change" else [(number,) for number in every]
    return [
        (Pool(own, id_labels, tuple(places[number] for number in group), ratio), group)
        for group in groups
    ]


def _drawn(pool: Pool, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """ID and OOD images at the pool's ratio, each in random order."""
    ood = np.concatenate(pool.ood_places)
    id_count, ood_count = counts_at(pool.ratio, len(pool.id_places), len(ood))
    return rng.permutation(pool.id_places)[:id_count], rng.permutation(ood)[:ood_count]


def _rng(seed: int) -> Rng:
    return np.random.Generator(np.random.PCG64(seed))

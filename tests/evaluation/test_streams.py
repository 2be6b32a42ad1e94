"""Streams: who is in them, in which order, and that chance alone decides the rest."""

from collections import Counter

import numpy as np
import pytest

from openood_interneg.evaluation.streams import (
    STREAMS,
    counts_at,
    course,
    pools,
    split_half,
)
from openood_interneg.settings import SettingsError

LABELS = np.arange(60) % 10
SIZES = (30, 25, 7)  # near, far, far


def owner(place):
    """0 for an ID image, else 1 + the number of its OOD set; counted on one's fingers."""
    for number, size in enumerate((len(LABELS), *SIZES)):
        if place < size:
            return number
        place -= size
    raise AssertionError("no such image")


def runs(name, ratio=(1, 1), seed=3):
    for pool, sets in pools(name, LABELS, SIZES, ratio):
        made = course(name, pool, seed)
        yield sets, made, [owner(place) for place in made.places.tolist()]


@pytest.mark.parametrize("name", STREAMS)
def test_no_image_comes_twice_and_a_seed_decides(name):
    for (_, one, owners), (_, again, _), (_, other, _) in zip(
        runs(name), runs(name), runs(name, seed=4), strict=True
    ):
        assert len(set(one.places.tolist())) == len(one.places) == len(one.parts)
        assert one.places.tolist() == again.places.tolist() != other.places.tolist()
        assert sorted(one.parts.tolist()) == one.parts.tolist()  # parts follow one another
        assert {0} < set(owners)


@pytest.mark.parametrize(
    "ratio, sizes, expected",
    [
        ((1, 1), (60, 30), (30, 30)),
        ((10, 1), (60, 30), (60, 6)),
        ((1, 10), (60, 30), (3, 30)),
        ((100, 1), (60, 30), (60, 1)),
        ((100, 1), (1000, 2000), (1000, 10)),
        ((1, 10), (5, 3), (1, 3)),
    ],
)
def test_counts_are_the_largest_at_the_ratio(ratio, sizes, expected):
    assert counts_at(ratio, *sizes) == expected


def test_mixed_streams_have_their_ratio_and_no_order():
    for sets, _, owners in runs("mixed", (1, 1)):
        counted = Counter(owners)
        assert counted == {0: SIZES[sets[0]], sets[0] + 1: SIZES[sets[0]]}
        first = Counter(owners[: len(owners) // 2])
        assert len(first) == 2
    for sets, _, owners in runs("mixed", (10, 1)):
        assert Counter(owners) == {0: 60, sets[0] + 1: 6}


def test_one_side_first():
    for name, first in (("id_first", 0), ("ood_first", 1)):
        for sets, _, owners in runs(name):
            size = SIZES[sets[0]]
            halves = [0] * size, [sets[0] + 1] * size
            assert owners == halves[first] + halves[1 - first]


def test_a_change_shows_one_kind_after_the_other_and_the_near_one_last():
    ((sets, made, owners),) = runs("change")
    assert sets == (2, 1, 0)
    for part, number in enumerate(sets):
        inside = [o for o, p in zip(owners, made.parts.tolist(), strict=True) if p == part]
        equal = min(20, SIZES[number])
        assert Counter(inside) == {0: equal, number + 1: equal}


def test_id_only_begins_without_ood():
    for sets, made, owners in runs("id_only"):
        alone = [o for o, p in zip(owners, made.parts.tolist(), strict=True) if p == 0]
        rest = [o for o, p in zip(owners, made.parts.tolist(), strict=True) if p == 1]
        assert alone == [0] * 30
        assert Counter(rest) == {0: SIZES[sets[0]], sets[0] + 1: SIZES[sets[0]]}


@pytest.mark.parametrize("classes, kept", [(2, 2), (3, 2), (10, 2), (50, 10), (100, 20)])
def test_few_classes_are_a_fifth_and_at_least_two(classes, kept):
    labels = np.arange(300) % classes
    for pool, _ in pools("few_classes", labels, (300,)):
        places = course("few_classes", pool, 0).places
        shown = {int(labels[place]) for place in places.tolist() if place < 300}
        assert len(shown) == kept


def test_halves_share_no_image_and_leave_none():
    for count in (2, 3, 11, 100):
        first, second = split_half(count, 5)
        assert sorted(first.tolist() + second.tolist()) == list(range(count))
        assert len(first) == count // 2
        assert first.tolist() == sorted(first) and second.tolist() == sorted(second)
    with pytest.raises(ValueError, match="1 cannot be halved"):
        split_half(1, 0)


def test_an_unknown_stream_is_refused():
    (pool, _) = pools("mixed", LABELS, SIZES)[0]
    with pytest.raises(SettingsError, match="stream is 'tide'; choose one of mixed, id_first"):
        course("tide", pool, 0)

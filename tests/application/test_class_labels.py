"""Labels of ID images: by name where there are names, and one error for all that do not match."""

import numpy as np
import pytest

from openood_interneg.application.class_labels import places_of
from openood_interneg.data.classnames import class_names, imagenet_ids
from openood_interneg.detectors.base import DetectorError

NAMES = ("cat", "Great white-shark", "polar bear")


@pytest.mark.parametrize(
    ("labels", "numbered", "wanted"),
    [
        (["polar bear", "cat"], None, [2, 0]),
        (["Polar_Bear", "great/white shark"], None, [2, 1]),
        ([2, np.int64(0)], None, [2, 0]),
        (["2", "0"], None, [2, 0]),
        ([0, 1], {0: ("polar bear",), 1: ("tiger", "CAT")}, [2, 0]),
        (["1"], {1: ("cat",)}, [0]),
    ],
)
def test_names_and_numbers(labels, numbered, wanted):
    places = places_of(labels, NAMES, numbered)
    assert places.tolist() == wanted and places.dtype == np.int64


def test_digits_are_names_where_classes_are_called_so():
    assert places_of(["7", "3"], ("3", "7")).tolist() == [1, 0]
    with pytest.raises(DetectorError, match="names: '1'"):
        places_of(["1"], ("3", "7"))


def test_names_that_only_loosely_agree_with_two_classes_are_not_guessed():
    assert places_of(["a-b", "a b"], ("a b", "a-b")).tolist() == [1, 0]
    with pytest.raises(DetectorError, match="'A_B'"):
        places_of(["A_B"], ("a b", "a-b"))


@pytest.mark.parametrize(
    ("labels", "numbered", "message"),
    [
        (["cat", "bat", "tiger"], None, r"2 of the 3 .* 'bat' \(did you mean 'cat'\?\), 'tiger';"),
        ([3, -1], None, r"class number 3 \(they are 0\.\.2\), class number -1"),
        ([0, 5], {0: ("bat", "rat")}, r"class 0 \(bat, rat\), class 5 \(without a name\)"),
        ([True], None, "class number True"),
        ([None, 0.5, [1]], None, r"3 of the 3 .* 'None', '0\.5', '\[1\]'"),
        ([f"x{i}" for i in range(12)], None, "'x9' and 2 more"),
    ],
)
def test_all_that_do_not_match_are_named_at_once(labels, numbered, message):
    with pytest.raises(DetectorError, match=message):
        places_of(labels, NAMES, numbered)


@pytest.mark.slow  # imports open_clip for the names
def test_wordnet_ids_of_imagenet_are_in_the_order_of_its_names():
    names = class_names("imagenet200")
    ids = [f"n{n:08d}" for n in range(200)]
    assert imagenet_ids(reversed(ids), names) == {one: n for n, one in enumerate(ids)}
    assert not imagenet_ids(ids[1:], names) and not imagenet_ids(ids, [*names[1:], "x"])
    numbered = {n: (one,) for n, one in enumerate(ids)}
    assert places_of([7, "n00000003"], names, numbered).tolist() == [7, 3]

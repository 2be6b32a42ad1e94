"""Inversions are computed once, and taken for the same feature and model only."""

import shutil

import torch
from helpers import healed, unit_rows

from openood_interneg.data.store import Store
from openood_interneg.negatives.stored_inversion import Inversion, StoredInverter


def test_inversions_of_another_backbone_are_not_taken(tmp_path):
    calls = []

    def live(features, ids):
        calls.append(len(ids))
        return features.flip(1)

    h, ids = unit_rows(6, 4, 0), torch.arange(6)
    first = StoredInverter(Inversion({"weights": "a"}, lambda: live), Store(tmp_path))
    first(h, ids)
    first.flush()
    assert (
        StoredInverter(Inversion({"weights": "a"}, lambda: live), Store(tmp_path))(h, ids).shape
        == h.shape
    )
    assert calls == [6]
    other = StoredInverter(Inversion({"weights": "b"}, lambda: live), Store(tmp_path))
    shutil.copytree(first.folder, other.folder)
    with healed("made anew when needed"):
        other = StoredInverter(Inversion({"weights": "b"}, lambda: live), Store(tmp_path))
    other(h, ids)
    assert calls == [6, 6]


def test_what_is_missing_is_computed_and_kept(tmp_path):
    calls = []

    def live(features, ids):
        calls.append(ids.tolist())
        return features.flip(1)

    h, ids = unit_rows(6, 4, 0), torch.arange(6)
    first = StoredInverter(Inversion({"weights": "a"}, lambda: live), Store(tmp_path))
    assert torch.equal(first(h[:4], ids[:4]), h[:4].flip(1))
    first.flush()
    again = StoredInverter(Inversion({"weights": "a"}, lambda: live), Store(tmp_path))
    assert torch.equal(again(h, ids), h.flip(1))
    again(-h[:1], ids[:1])  # the same image with another feature
    assert calls == [[0, 1, 2, 3], [4, 5], [0]] and again.computed == 3

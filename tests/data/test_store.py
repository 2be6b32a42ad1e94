"""The store: shards resume and heal, and what is damaged, displaced or foreign is made anew."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import STORED_ROWS, filled, healed, silent, unit_rows
from safetensors.torch import save_file

from openood_interneg.data import store as store_module
from openood_interneg.data.digests import tensors_digest
from openood_interneg.data.store import (
    Store,
    StoreError,
    atomic_path,
    read_tensors,
    write_tensors,
)

ROOT = Path(__file__).resolve().parents[2]


def swap(a: Path, b: Path) -> None:
    one, two = a.read_bytes(), b.read_bytes()
    assert len(one) == len(two) and one != two
    a.write_bytes(two)
    b.write_bytes(one)


def assert_heals(root, truth, seed: int = 0) -> None:
    """What was damaged is made anew with a warning, once, and is right again."""
    with healed():
        entry, _ = filled(root, seed)
        assert torch.equal(entry.read_all()["features"], truth)
    with silent():
        entry, _ = filled(root, seed)
        assert entry.sound() and torch.equal(entry.read_all()["features"], truth)


def test_shards_swapped_between_two_entries_are_noticed(tmp_path):
    (one, truth), (two, other) = filled(tmp_path, 0), filled(tmp_path, 1)
    swap(one.path(1), two.path(1))
    assert_heals(tmp_path, truth, 0)
    assert_heals(tmp_path, other, 1)


def test_shards_swapped_within_an_entry_are_noticed(tmp_path):
    entry, truth = filled(tmp_path)
    swap(entry.path(0), entry.path(2))
    assert_heals(tmp_path, truth)


def test_a_whole_folder_under_the_name_of_another_is_noticed(tmp_path):
    (one, truth), (two, _) = filled(tmp_path, 0), filled(tmp_path, 1)
    shutil.rmtree(one.folder)
    shutil.copytree(two.folder, one.folder)
    assert_heals(tmp_path, truth)


def _folder(path):
    path.unlink()
    path.mkdir()
    (path / "precious.txt").write_text("kept")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _garbage(path):
    path.write_bytes(b"[" * 100_000)


def _empty(path):
    path.write_bytes(b"")


def _dangling(path):
    path.unlink()
    path.symlink_to(path.parent / "nothing")


DAMAGE = [_folder, _pipe, _device, _garbage, _empty, _dangling]


@pytest.mark.parametrize(
    "name, damage", list(itertools.product(["000001.safetensors", "manifest.json"], DAMAGE))
)
def test_what_is_no_sound_file_is_made_anew(tmp_path, name, damage):
    entry, truth = filled(tmp_path)
    damage(entry.folder / name)
    assert_heals(tmp_path, truth)
    kept = list(entry.folder.glob("*.aside/precious.txt"))
    assert len(kept) == (damage is _folder), "a folder is set aside, not emptied"


@pytest.mark.parametrize(
    "tensors",
    [
        {"features": unit_rows(2, 4, 5).double()},
        {"features": torch.full((2, 4), float("nan"))},
        {"features": torch.full((2, 4), float("inf"))},
        {"features": 3 * unit_rows(2, 4, 5)},
        {"features": unit_rows(3, 4, 5)},
        {"features": unit_rows(2, 4, 5)[:, :3]},
        {"features": unit_rows(2, 4, 5), "more": unit_rows(2, 4, 5)},
        {"other": unit_rows(2, 4, 5)},
    ],
)
def test_a_forged_shard_with_a_right_digest_is_made_anew(tmp_path, tensors):
    entry, truth = filled(tmp_path)
    owner = {"entry": entry.folder.name, "shard": 1, "rows": 6}
    write_tensors(entry.path(1), tensors, owner)
    (entry.folder / "manifest.json").unlink()
    assert_heals(tmp_path, truth)


def test_a_header_of_deep_brackets_is_made_anew(tmp_path):
    from safetensors.torch import save_file

    entry, truth = filled(tmp_path)
    tensors = {"features": truth[2:4].clone()}
    header = {"digest": tensors_digest(tensors), "entry": "[" * 100_000, "shard": "1", "rows": "6"}
    save_file(tensors, entry.path(1), metadata=header)
    assert_heals(tmp_path, truth)


def test_a_link_in_the_cache_is_not_written_through(tmp_path):
    entry, truth = filled(tmp_path / "cache")
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    for name in ("000000.safetensors", "manifest.json"):
        (entry.folder / name).unlink()
        (entry.folder / name).symlink_to(victim)
    assert_heals(tmp_path / "cache", truth)
    assert victim.read_text() == "precious"


def test_entries_of_an_older_meaning_are_not_read(tmp_path, monkeypatch):
    old = filled(tmp_path)[0].folder
    monkeypatch.setattr(store_module, "FORMAT", store_module.FORMAT + 1)
    entry = Store(tmp_path).entry("features", {"seed": 0}, 6, 2, STORED_ROWS)
    assert entry.folder != old and not entry.complete()
    assert Store(tmp_path).folder("inversions", {}) != tmp_path / "inversions"


def test_a_manifest_says_whose_it_is(tmp_path):
    entry, _ = filled(tmp_path)
    manifest = json.loads((entry.folder / "manifest.json").read_text())
    assert manifest["entry"] == entry.folder.name and manifest["key"] == {"seed": 0}


def test_mined_texts_that_are_damaged_are_mined_anew(tmp_path, miniature):
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.settings import NegativeSettings

    words = tmp_path / "words.txt"
    words.write_text("stone\nriver\nlamp\nred car\n")
    settings = NegativeSettings(corpus=str(words), num_negatives=3, negatives="intra")

    def mined():
        return TextSpaceBuilder(miniature, ["circle", "star"], None, Store(tmp_path / "s")).mined(
            settings
        )

    first = mined()
    (path,) = (tmp_path / "s" / "mined").glob("*/*.safetensors")
    tensors, header = read_tensors(path)
    for name, value in (("words", b"[[1], [], 2]"), ("deviation", None)):
        forged = dict(tensors)
        if value is None:
            forged[name] = torch.full_like(tensors[name], float("nan"))
        else:
            forged[name] = torch.frombuffer(bytearray(value), dtype=torch.uint8)[None]
        write_tensors(path, forged, header)
        with healed():
            assert mined().words == first.words
        with silent():
            assert torch.equal(mined().features, first.features)


class TestStore:
    def fill(self, entry, calls):
        def compute(shards):
            calls.append(shards)
            for shard in shards:
                span = entry.span(shard)
                yield {"x": torch.arange(span.start, span.stop)}

        entry.fill(compute)

    def test_shards_resume_and_heal(self, tmp_path):
        entry = Store(tmp_path).entry("kind", {"a": 1}, rows=10, shard_rows=4)
        calls = []
        self.fill(entry, calls)
        assert calls == [[0, 1, 2]] and entry.complete()
        assert entry.read_all()["x"].tolist() == list(range(10))
        self.fill(entry, calls)
        assert len(calls) == 1  # nothing was missing
        entry.path(1).unlink()
        entry.path(2).write_bytes(entry.path(2).read_bytes()[:-3])
        with pytest.warns(UserWarning, match=r"000002.*made anew"):
            self.fill(entry, calls)
        assert calls[1] == [1, 2]
        assert entry.read_all()["x"].tolist() == list(range(10))

    def test_a_flipped_bit_is_noticed(self, tmp_path):
        entry = Store(tmp_path).entry("kind", {}, rows=3, shard_rows=4)
        self.fill(entry, [])
        data = bytearray(entry.path(0).read_bytes())
        data[-1] ^= 1
        entry.path(0).write_bytes(data)
        with pytest.warns(UserWarning, match=r"damaged.*made anew"):
            assert entry.read_all()["x"].tolist() == [0, 1, 2]
        entry.path(0).write_bytes(data)
        unfilled = Store(tmp_path).entry("kind", {}, rows=3, shard_rows=4)
        with pytest.raises(StoreError, match=r"damaged.*run again"):
            unfilled.read_all()

    def test_a_failing_computation_leaves_finished_shards(self, tmp_path):
        entry = Store(tmp_path).entry("kind", {}, rows=8, shard_rows=4)

        def compute(shards):
            yield {"x": torch.zeros(4)}
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            entry.fill(compute)
        assert not entry.complete() and entry.missing() == [1]
        assert not list(tmp_path.rglob("*.tmp"))

    def test_keys_are_told_apart(self, tmp_path):
        store = Store(tmp_path)
        folders = {store.entry("k", {"a": a}, n, 4).folder for a in (1, 2) for n in (3, 4)}
        assert len(folders) == 4

    def test_foreign_file(self, tmp_path):
        save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
        with pytest.raises(StoreError, match="does not match its digest"):
            read_tensors(tmp_path / "x.safetensors")

    def test_atomic_path(self, tmp_path):
        with pytest.raises(RuntimeError), atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("whole")
        assert (tmp_path / "x").read_text() == "whole"

    def test_temporary_store_vanishes(self):
        store = Store(None)
        root = store.root
        assert root.is_dir()
        del store
        assert not root.exists()

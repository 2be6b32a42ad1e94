"""Benchmarks and the store: what is refused, and with which words."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openood_interneg.data.benchmark_files import configs_root, list_benchmarks
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.image_lists import BenchmarkError, read_image_list
from openood_interneg.data.store import Store, StoreError, atomic_path, read_tensors


class TestBenchmarks:
    @pytest.mark.parametrize("name", list_benchmarks())
    def test_shipped_ones_say_what_is_missing(self, name, tmp_path):
        with pytest.raises(BenchmarkError, match="no image list at"):
            load_benchmark(name, tmp_path)

    def test_configs_are_found(self):
        assert (configs_root() / "postprocessors" / "interneg.yml").is_file()

    def write(self, folder, text="dataset: {}", lists=()):
        (folder / "mine.yml").write_text(text)
        for name, lines in lists:
            (folder / name).write_text(lines)
        return folder / "mine.yml"

    GOOD = """
dataset:
  name: mine
  class_names: [cat, dog]
  test: {data_dir: ., imglist_pth: id.txt}
ood_dataset:
  farood:
    datasets: [far]
    far: {data_dir: ., imglist_pth: far.txt}
"""
    LISTS = (("id.txt", "a.png 0\nmy dog.png 1\n"), ("far.txt", "c.png -1\n"))

    def test_own_yaml(self, tmp_path):
        benchmark = load_benchmark(self.write(tmp_path, self.GOOD, self.LISTS))
        assert benchmark.class_names == ("cat", "dog") and benchmark.train is None
        assert benchmark.test.paths == ("a.png", "my dog.png")
        assert benchmark.far[0].labels.tolist() == [-1] and benchmark.near == ()
        with pytest.raises(BenchmarkError, match="2 of 2 images of 'mine' are not there"):
            benchmark.check()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[cat, dog]", "[cat]", "with 1 class names they must be 0..0"),
            ("[cat, dog]", "nothing.txt", "class_names is 'nothing.txt'"),
            ("  name: mine", "  name: mine\n  num_classes: 3", "num_classes is 3, but there are 2"),
            ("farood", "middleood", "a group 'middleood', which nothing reads"),
            ("  test:", "  tests:", "no 'dataset' block with a 'test'"),
            ("datasets: [far]", "datasets: [near]", "farood lists 'near', but has no block"),
            ("name: mine", "name: [", "not valid YAML"),
        ],
    )
    def test_yaml_mistakes(self, tmp_path, old, new, message):
        path = self.write(tmp_path, self.GOOD.replace(old, new), self.LISTS)
        with pytest.raises(BenchmarkError, match=message):
            load_benchmark(path)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ("a.png", "line 1: expected 'path label'"),
            ("a.png 0\nb.png x", "line 2: expected 'path label'"),
            ("0", "line 1: the path is missing"),
        ],
    )
    def test_image_list_mistakes(self, tmp_path, lines, message):
        (tmp_path / "list.txt").write_text(lines)
        with pytest.raises(BenchmarkError, match=message):
            read_image_list(tmp_path / "list.txt", tmp_path, "x")

    def test_limit_is_spread_evenly(self, tmp_path):
        lists = (("id.txt", "".join(f"{i}.png 0\n" for i in range(101))), self.LISTS[1])
        benchmark = load_benchmark(self.write(tmp_path, self.GOOD, lists), limit=5)
        assert benchmark.test.paths == ("0.png", "25.png", "50.png", "75.png", "100.png")


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


def test_labels_of_a_list_are_integers(tmp_path):
    (tmp_path / "l.txt").write_text("a b.png 3\n\nc.png -1\n")
    images = read_image_list(tmp_path / "l.txt", tmp_path, "x")
    assert images.labels.dtype == np.int64 and images.labels.tolist() == [3, -1]
    assert images.paths[0] == "a b.png"

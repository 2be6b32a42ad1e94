"""Settings, checkpoints, benchmarks and the store: what is refused, and with which words."""

import dataclasses
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openood_interneg.data.benchmark import (
    BenchmarkError,
    configs_root,
    list_benchmarks,
    load_benchmark,
    read_image_list,
)
from openood_interneg.data.store import Store, StoreError, atomic_path, read_tensors
from openood_interneg.settings import InterNegSettings, SettingsError, as_mapping, from_mapping
from openood_interneg.vlm.backbones import Backbone, FeatureError
from openood_interneg.vlm.checkpoints import CheckpointError, load_checkpoint
from openood_interneg.vlm.factory import WeightsError, load_backbone


class TestSettings:
    def test_defaults_are_the_papers(self):
        s = InterNegSettings()
        assert (s.images_per_class, s.num_negatives, s.bank_capacity) == (16, 2000, 2000)
        assert (s.tau, s.beta, s.groups, s.num_tokens, s.steps) == (1.0, 0.35, 1, 1, 10)
        assert (s.lr, s.weight_decay) == (2e-2, 0.01)

    def test_round_trip(self):
        s = InterNegSettings(beta=0.2, templates="photo")
        assert from_mapping(InterNegSettings, as_mapping(s)) == s

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"bta": 0.3}, "unknown setting 'bta'.*did you mean 'beta'"),
            ({"beta": "1e-4"}, "write 1.0e-4"),
            ({"beta": float("nan")}, "finite"),
            ({"beta": -0.1}, "at least 0"),
            ({"groups": 0}, "at least 1"),
            ({"num_negatives": 10.5}, "whole number"),
            ({"num_negatives": True}, "takes a number"),
            ({"ignore_case": "yes"}, "true or false"),
            ({"update": "never"}, "choose one of batch, sample"),
            ({"corpus": ""}, "non-empty"),
            ({"templates": None}, "non-empty"),
        ],
    )
    def test_refusals(self, values, message):
        with pytest.raises(SettingsError, match=message):
            from_mapping(InterNegSettings, values)

    def test_errors_name_their_source(self):
        with pytest.raises(SettingsError, match="in my.yml"):
            from_mapping(InterNegSettings, {"beta": 7}, "my.yml")

    def test_every_setting_is_documented(self):
        assert all(f.metadata["help"] for f in dataclasses.fields(InterNegSettings))


class TestCheckpoints:
    @pytest.fixture
    def state(self, golden):
        return load_file(golden / "tiny_clip.safetensors")

    def test_pt_and_safetensors_give_the_same_model(self, golden, state, tmp_path):
        for name, wrap in (("a.pt", lambda s: s), ("b.pth", lambda s: {"state_dict": s})):
            torch.save(wrap(state), tmp_path / name)
            (tmp_path / name).with_suffix(".json").write_text(
                (golden / "tiny_clip.json").read_text()
            )
            model = load_backbone(tmp_path / name)
            assert model.digest == load_backbone(golden / "tiny_clip.safetensors").digest
            assert model.logit_scale == pytest.approx(14.2985, abs=1e-3)

    def test_sizes_are_read_off_the_weights(self, state, tmp_path):
        save_file(state, tmp_path / "bare.safetensors")
        model, preprocess = load_checkpoint(tmp_path / "bare.safetensors")
        assert preprocess.size == 32 and model.context_length == 77

    def test_pickled_code_is_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        (tmp_path / "evil.pt").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
            load_backbone(tmp_path / "evil.pt")
        torch.save({"x": Trap()}, tmp_path / "evil2.pt")
        with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
            load_backbone(tmp_path / "evil2.pt")
        assert not (tmp_path / "sprung").exists()

    def test_torchscript_is_refused(self, tmp_path):
        module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        (tmp_path / "jit.pt").write_bytes(buffer.getvalue())
        assert zipfile.is_zipfile(tmp_path / "jit.pt")
        with pytest.raises(CheckpointError, match="TorchScript archive"):
            load_backbone(tmp_path / "jit.pt")

    @pytest.mark.parametrize("keep", [0, 10, 5000])
    def test_truncated(self, golden, tmp_path, keep):
        whole = (golden / "tiny_clip.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match="truncated, damaged"):
            load_backbone(tmp_path / "cut.safetensors")

    def test_another_model(self, tmp_path):
        save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match="lacks token_embedding"):
            load_backbone(tmp_path / "other.safetensors")

    def test_missing_layer(self, state, tmp_path):
        del state["visual.proj"], state["visual.ln_post.weight"]
        save_file(state, tmp_path / "part.safetensors")
        with pytest.raises(CheckpointError, match="do not fit a CLIP"):
            load_backbone(tmp_path / "part.safetensors")

    def test_bad_json(self, state, tmp_path):
        save_file(state, tmp_path / "a.safetensors")
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(CheckpointError, match="not valid JSON"):
            load_backbone(tmp_path / "a.safetensors")

    def test_model_object_is_taken_and_left_alone(self, golden):
        from_file = load_backbone(golden / "tiny_clip.safetensors")
        given = from_file.model.half()
        assert isinstance(load_backbone(given), Backbone)
        assert next(given.parameters()).dtype == torch.float16
        with pytest.raises(CheckpointError, match="no CLIP model object"):
            load_backbone(torch.nn.Linear(2, 2))

    def test_nan_features_are_refused(self, golden):
        backbone = load_backbone(golden / "tiny_clip.safetensors")
        images = torch.zeros(3, 3, 32, 32)
        images[1, 0, 0, 0] = float("nan")
        with pytest.raises(FeatureError, match="image 1 of this batch"):
            backbone.encode_image(images)

    def test_no_weights_here(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HOME", "/nonexistent")
        with pytest.raises(WeightsError, match="Three remedies") as error:
            load_backbone("RN50", pretrained="yfcc15m")
        assert "--pretrained" in str(error.value)


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

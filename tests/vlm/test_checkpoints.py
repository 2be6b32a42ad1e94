"""Checkpoint files and model objects: what they become, and what is refused with which words."""

import io
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from openood_interneg.vlm.backbones import Backbone, FeatureError
from openood_interneg.vlm.checkpoints import CheckpointError, load_checkpoint
from openood_interneg.vlm.factory import WeightsError, load_backbone


@pytest.fixture
def state(golden):
    return load_file(golden / "tiny_clip.safetensors")


def test_pt_and_safetensors_give_the_same_model(golden, state, tmp_path):
    for name, wrap in (("a.pt", lambda s: s), ("b.pth", lambda s: {"state_dict": s})):
        torch.save(wrap(state), tmp_path / name)
        (tmp_path / name).with_suffix(".json").write_text((golden / "tiny_clip.json").read_text())
        model = load_backbone(tmp_path / name)
        assert model.digest == load_backbone(golden / "tiny_clip.safetensors").digest
        assert model.logit_scale == pytest.approx(14.2985, abs=1e-3)


def test_sizes_are_read_off_the_weights(state, tmp_path):
    save_file(state, tmp_path / "bare.safetensors")
    model, preprocess = load_checkpoint(tmp_path / "bare.safetensors")
    assert preprocess.size == 32 and model.context_length == 77


def test_pickled_code_is_not_run(tmp_path):
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


def test_torchscript_is_refused(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    (tmp_path / "jit.pt").write_bytes(buffer.getvalue())
    assert zipfile.is_zipfile(tmp_path / "jit.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_backbone(tmp_path / "jit.pt")


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_truncated(golden, tmp_path, keep):
    whole = (golden / "tiny_clip.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        load_backbone(tmp_path / "cut.safetensors")


def test_another_model(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="lacks token_embedding"):
        load_backbone(tmp_path / "other.safetensors")


def test_missing_layer(state, tmp_path):
    del state["visual.proj"], state["visual.ln_post.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match="do not fit a CLIP"):
        load_backbone(tmp_path / "part.safetensors")


def test_bad_json(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_backbone(tmp_path / "a.safetensors")


def test_model_object_is_taken_and_left_alone(golden):
    from_file = load_backbone(golden / "tiny_clip.safetensors")
    given = from_file.model.half()
    assert isinstance(load_backbone(given), Backbone)
    assert next(given.parameters()).dtype == torch.float16
    with pytest.raises(CheckpointError, match="no CLIP model object"):
        load_backbone(torch.nn.Linear(2, 2))


def test_nan_features_are_refused(golden):
    backbone = load_backbone(golden / "tiny_clip.safetensors")
    images = torch.zeros(3, 3, 32, 32)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(FeatureError, match="image 1 of this batch"):
        backbone.encode_image(images)


def test_no_weights_here(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    with pytest.raises(WeightsError, match="Three remedies") as error:
        load_backbone("RN50", pretrained="yfcc15m")
    assert "--pretrained" in str(error.value)

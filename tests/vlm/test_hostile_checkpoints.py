"""Checkpoints and the files beside them: nothing is run, fetched or allocated at their word."""

import json
import os
import socket
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from openood_interneg.vlm.backbones import FeatureError
from openood_interneg.vlm.checkpoints import CheckpointError
from openood_interneg.vlm.factory import WeightsError, load_backbone
from openood_interneg.vlm.trained_prompts import TrainedPromptError, read_checkpoint

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"width": 64, "heads": 2, "layers": 2}
ARCHITECTURE = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
FITTING = {"quick_gelu": True, "vision_cfg": {"head_width": 32}, "text_cfg": {"heads": 2}}


def tiny_state():
    torch.manual_seed(0)
    return open_clip.CLIP(**ARCHITECTURE).state_dict()


@pytest.fixture
def place(tmp_path):
    """A folder with a sound checkpoint, and a function that writes the JSON beside it."""
    save_file(tiny_state(), tmp_path / "clip.safetensors")

    def write(**config):
        merged = {k: {**FITTING[k], **v} if k.endswith("cfg") else v for k, v in config.items()}
        (tmp_path / "clip.json").write_text(json.dumps(FITTING | merged))
        return tmp_path / "clip.safetensors"

    return write


@pytest.fixture
def no_network(monkeypatch):
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not asked


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/model", "timm_model_pretrained": True}),
        ("vision_cfg", {"timm_model_pretrained": True}),
        ("text_cfg", {"hf_model_name": "evil/model"}),
        ("text_cfg", {"hf_tokenizer_name": "evil/model"}),
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
    ],
)
def test_a_file_beside_a_checkpoint_names_nothing_to_load(place, no_network, part, block):
    with pytest.raises(CheckpointError, match="never names something to load"):
        load_backbone(place(**{part: block}))


@pytest.mark.parametrize(
    ("part", "block", "message"),
    [
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/model"}, "a place to load from"),
        ("vision_cfg", {"timm_model_name": "../evil"}, "a place to load from"),
        ("text_cfg", {"hf_model_name": "evil/model"}, "a place to load from"),
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
    ],
)
def test_a_local_folder_names_nothing_to_load(tmp_path, monkeypatch, part, block, message):
    def never(*args, **kwargs):
        raise AssertionError("the model is built")

    monkeypatch.setattr(open_clip, "create_model", never)
    config = ARCHITECTURE | {part: ARCHITECTURE[part] | block}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(f"local-dir:{tmp_path}")


def test_a_local_folder_without_weights_is_no_random_model(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": ARCHITECTURE}))
    with pytest.raises(WeightsError, match="Required pretrained weights"):
        load_backbone(f"local-dir:{tmp_path}")
    save_file(tiny_state(), tmp_path / "model.safetensors")
    assert load_backbone(f"local-dir:{tmp_path}").embed_dim == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"text_cfg": {"layers": 100000}}, r"text_cfg.layers is 100000, and the weights have 2"),
        ({"vision_cfg": {"layers": 1e5}}, r"vision_cfg.layers is 100000.0, and the weights have 1"),
        ({"text_cfg": {"context_length": 10**6}}, "the weights have 77"),
        ({"text_cfg": {"mlp_ratio": 1e6}}, "do not fit"),
        ({"vision_cfg": {"mlp_ratio": 1e6}}, "do not fit"),
        ({"vision_cfg": {"head_width": 0}}, "do not fit"),
        ({"text_cfg": {"heads": 7}}, "do not fit"),
        ({"text_cfg": {"heads": "many"}}, "do not fit"),
        ({"quick_gelu": "yes"}, "quick_gelu is 'yes'; it is true or false"),
    ],
)
def test_sizes_beside_a_checkpoint_are_checked_before_they_are_built(place, config, message):
    with pytest.raises(CheckpointError, match=message):
        load_backbone(place(**config))


def test_tensors_that_unfold_are_refused(tmp_path):
    state = tiny_state()
    state["positional_embedding"] = torch.zeros(1, 1).expand(10**6, 64)
    torch.save(state, tmp_path / "unfolds.pt")
    with pytest.raises(CheckpointError, match="of which the file holds 4"):
        load_backbone(tmp_path / "unfolds.pt")
    torch.save({"ctx": torch.zeros(1).expand(10**6)}, tmp_path / "prompt.pt")
    with pytest.raises(TrainedPromptError, match="checkpoint: .*of which the file holds 4"):
        read_checkpoint(tmp_path / "prompt.pt")


def test_one_tensor_under_thousands_of_names_is_refused(tmp_path):
    shared = torch.zeros(2**18)
    torch.save({f"t{i}": shared for i in range(1000)}, tmp_path / "many.pt")
    with pytest.raises(TrainedPromptError, match="unfold"):
        read_checkpoint(tmp_path / "many.pt")
    torch.save({"a": shared, "b": shared}, tmp_path / "tied.pt")
    assert set(read_checkpoint(tmp_path / "tied.pt")) == {"a", "b"}


def test_a_packed_archive_is_refused(tmp_path):
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(TrainedPromptError, match="does not compress"):
        read_checkpoint(tmp_path / "packed.pt")


def test_a_long_context_is_refused_before_its_mask_is_made(tmp_path):
    state = {k: v for k, v in tiny_state().items()}
    state["positional_embedding"] = torch.zeros(10**5, 64)
    save_file(state, tmp_path / "long.safetensors")
    with pytest.raises(CheckpointError, match="context of 100000 tokens; at most 4096"):
        load_backbone(tmp_path / "long.safetensors")


@pytest.mark.parametrize("which", ["clip.safetensors", "clip.json", "open_clip_config.json"])
def test_only_regular_files_are_opened(place, tmp_path, which):
    file = place()
    if which == "open_clip_config.json":
        (tmp_path / "clip.json").unlink()
    (tmp_path / which).unlink(missing_ok=True)
    os.mkfifo(tmp_path / which)
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        load_backbone(file)
    with pytest.raises(CheckpointError, match="a folder"):
        load_backbone("ViT-B-32", pretrained=f"{tmp_path}")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1e4, 1e4])
def test_a_logit_scale_that_decides_everything_is_refused(place, tmp_path, scale):
    file = place()
    save_file(tiny_state() | {"logit_scale": torch.tensor(scale)}, file)
    with pytest.raises(CheckpointError, match="logit scale"):
        load_backbone(file)


@pytest.mark.parametrize(("factor", "kind"), [(0, "norm 0"), (1e25, "too large")])
def test_features_without_a_direction_are_refused(place, tmp_path, factor, kind):
    file, state = place(), tiny_state()
    for name in ("visual.proj", "text_projection"):
        state[name] = state[name] * factor
    save_file(state, file)
    backbone = load_backbone(file)
    with pytest.raises(FeatureError, match=f"image 0 .*{kind}"):
        backbone.encode_image(torch.rand(1, 3, 32, 32))
    with pytest.raises(FeatureError, match=f"text 0 .*{kind}"):
        backbone.encode_text(["a cat"])

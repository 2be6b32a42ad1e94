"""The pixels are those of open_clip's own transform, for every model that open_clip knows."""

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from openood_interneg.settings import SettingsError
from openood_interneg.vlm.checkpoints import CheckpointError
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess

SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"width": 64, "heads": 2, "layers": 2}
ARCHITECTURE = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}


def image(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.BICUBIC).convert(mode)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return open_clip.CLIP(**ARCHITECTURE).state_dict()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(600, 200), (200, 600), (40, 30)])
def test_every_resize_mode_is_open_clips(mode, interpolation, width, height):
    config = {
        **{"size": 64, "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "mode": "RGB"},
        **{"interpolation": interpolation, "resize_mode": mode, "fill_color": 99},
    }
    ours = Preprocess.from_open_clip(config, (64, 64), "here", SettingsError)
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    for kind in ("RGB", "L", "P"):
        picture = image(width, height, kind)
        torch.testing.assert_close(
            ours.transform()(picture), theirs(picture), rtol=0, atol=0, msg=f"{mode} {kind}"
        )


def test_a_models_own_resizing_is_kept(weights, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-squash", ARCHITECTURE)
    model = open_clip.create_model("tiny-squash", force_preprocess_cfg=SIGLIP)
    theirs = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    picture = image(600, 200)
    ours = load_backbone(model).preprocess.transform()(picture)
    torch.testing.assert_close(ours, theirs(picture), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", [None, "tiny-squash"])
def test_the_open_clip_config_beside_a_file_is_read(weights, tmp_path, monkeypatch, architecture):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-squash", ARCHITECTURE)
    save_file(weights, tmp_path / "model.safetensors")
    config = {"model_cfg": ARCHITECTURE | {"quick_gelu": True}, "preprocess_cfg": SIGLIP}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    file = str(tmp_path / "model.safetensors")
    backbone = load_backbone(
        *[file] if architecture is None else [architecture],
        pretrained=(None if architecture is None else file),
    )
    assert backbone.preprocess.resize_mode == "squash" and backbone.preprocess.mean == (0.5,) * 3
    assert type(backbone.model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert backbone.model.transformer.resblocks[0].attn.num_heads == 2


def test_a_file_of_an_architecture_gets_what_all_its_tags_have(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-squash", ARCHITECTURE)
    tags = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(tags, "tiny-squash", {"webli": SIGLIP | {"url": ""}})
    save_file(weights, tmp_path / "model.safetensors")
    backbone = load_backbone("tiny-squash", pretrained=tmp_path / "model.safetensors")
    assert backbone.preprocess.resize_mode == "squash"
    monkeypatch.setitem(tags, "tiny-squash", {"webli": SIGLIP | {"url": ""}, "other": {"url": ""}})
    with pytest.warns(UserWarning, match="2 preprocessings"):
        backbone = load_backbone("tiny-squash", pretrained=tmp_path / "model.safetensors")
    assert backbone.preprocess.resize_mode == "shortest"


def test_keys_tell_resize_modes_apart():
    one = [Preprocess(32, resize_mode=mode).key() for mode in ("shortest", "longest", "squash")]
    one.append(Preprocess(32, resize_mode="longest", fill=9).key())
    assert len({json.dumps(key) for key in one}) == 4
    assert "resize_mode" not in one[0]  # what was kept before stays found


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": 20000}, "size is 20000 and the image tower takes 32"),
        ({"size": [32, 64]}, "not square"),
        ({"mode": "L"}, "only RGB"),
        ({"std": [0.5, 0.5, 0]}, "std .* above 0"),
        ({"mean": [0.5, 0.5]}, "mean .* three numbers"),
        ({"resize_mode": "stretch"}, "choose one of shortest, longest, squash"),
        ({"resize": 1e9}, "resize .* whole number"),
        ({"crop": 1}, "unknown preprocessing 'crop'"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_named(weights, tmp_path, config, message):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(
        json.dumps({"quick_gelu": True, "vision_cfg": {"head_width": 32}, "preprocess": config})
    )
    with pytest.raises(CheckpointError, match=f"model.json: .*{message}"):
        load_backbone(tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match="size is 20000; .* from 1 to 2048"):
        Preprocess(20000)

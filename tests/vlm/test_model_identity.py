"""Two models share a digest only where every feature of theirs is the same."""

import copy
import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tokenizers import byte_pairs

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"width": 64, "heads": 2, "layers": 2}


def tiny_clip(kind=open_clip.CLIP, text=(), **options) -> nn.Module:
    torch.manual_seed(0)
    return kind(embed_dim=32, vision_cfg=VISION, text_cfg={**TEXT, **dict(text)}, **options)


@pytest.fixture(scope="module")
def model():
    return tiny_clip()


def described(model: nn.Module, tokenizer=None) -> Backbone:
    tokenizer = tokenizer or byte_pairs()
    return Backbone(copy.deepcopy(model), tokenizer, Preprocess(32), name="tiny")


def other_heads(model):
    model.transformer.resblocks[0].attn.num_heads = 4


def other_vision_heads(model):
    model.visual.transformer.resblocks[0].attn.num_heads = 4


def other_activation(model):
    model.transformer.resblocks[1].mlp.gelu = open_clip.transformer.QuickGELU()


def approximate_gelu(model):
    model.visual.transformer.resblocks[0].mlp.gelu = nn.GELU(approximate="tanh")


def other_epsilon(model):
    model.ln_final.eps = 1e-3


def other_pooling(model):
    model.visual.pool_type = "avg"


def other_end_of_text(model):
    model.text_pool_type, model.text_eos_id = "eos", 49407


def no_mask(model):
    model.attn_mask = torch.zeros_like(model.attn_mask)


def other_stride(model):
    model.visual.conv1.stride = (15, 15)


@pytest.mark.parametrize(
    "change",
    [
        other_heads,
        other_vision_heads,
        other_activation,
        approximate_gelu,
        other_epsilon,
        other_pooling,
        other_end_of_text,
        no_mask,
        other_stride,
    ],
)
def test_another_architecture_with_the_same_weights_has_another_digest(model, change):
    changed = copy.deepcopy(model)
    change(changed)
    one, other = model.state_dict(), changed.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert described(model).digest != described(changed).digest


def test_another_tokenizer_has_another_digest(model):
    same = described(model, byte_pairs()).digest
    assert described(model).digest == same
    shorter = byte_pairs(32)
    cleaned = open_clip.SimpleTokenizer(clean="canonicalize")
    assert len({same, *(described(model, t).digest for t in (shorter, cleaned))}) == 3


def test_a_digest_is_the_same_for_the_same_model(model):
    assert described(model).digest == described(tiny_clip()).digest
    used = described(model)
    used.encode_text(["a cat"])
    used.encode_image(torch.zeros(1, 3, 32, 32))
    assert used.digest == described(model.train()).digest
    lowered = Backbone(tiny_clip(), used.tokenizer, Preprocess(64), name="x", precision="bf16")
    assert lowered.digest == used.digest  # precision and preprocessing are keys of their own


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"quick_gelu": True}, {"quick_gelu": False}),
        (
            {"quick_gelu": True, "text_cfg": {"heads": 2}},
            {"quick_gelu": True, "text_cfg": {"heads": 4}},
        ),
        ({"quick_gelu": True}, {"quick_gelu": True, "vision_cfg": {"pool_type": "avg"}}),
    ],
    ids=["activation", "heads", "pooling"],
)
def test_the_file_beside_a_checkpoint_is_in_the_digest(model, tmp_path, one, other):
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    digests = []
    for config in (one, other, one):
        (tmp_path / "clip.json").write_text(json.dumps(config))
        digests.append(load_backbone(tmp_path / "clip.safetensors").digest)
    assert digests[0] == digests[2] != digests[1]


def test_an_object_has_the_digest_of_its_file(tmp_path):
    model = tiny_clip(quick_gelu=True)
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    (tmp_path / "clip.json").write_text(
        json.dumps({"quick_gelu": True, "text_cfg": {"heads": 2}, "vision_cfg": {"head_width": 32}})
    )
    file = load_backbone(tmp_path / "clip.safetensors")
    assert file.digest == load_backbone(model).digest
    assert file.digest != load_backbone(tiny_clip(open_clip.CustomTextCLIP)).digest

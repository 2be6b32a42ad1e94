"""The fast text tower against the model's own full-length forward."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F

from openood_interneg.negatives.inversion import LiveInverter
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.pseudo_prompts import TextTowerError, pseudo_prompts
from openood_interneg.vlm.text_tower import CausalTextTower, FullLengthTextTower
from openood_interneg.vlm.tokenizers import byte_pairs

TEXTS = ["a", "The nice cat.", "a photo of a very large dog in the snow", "x " * 90, ""]
TEMPLATES = ("a photo of {}", "a {} in a video game.", "{}", "itap of my {}.")


def full_length(backbone: Backbone) -> FullLengthTextTower:
    model = backbone.model
    return FullLengthTextTower(model.encode_text, model.token_embedding)


def random_clip(**text) -> Backbone:
    torch.manual_seed(0)
    sizes = dict(width=64, heads=2, layers=3, **text)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
        text_cfg=sizes,
    )
    for p in model.parameters():  # far from the neat initial values, so that errors would show
        torch.nn.init.normal_(p, std=0.15)
    return Backbone(model, open_clip.get_tokenizer("ViT-B-32"), Preprocess(32), name="random")


def test_truncated_encoding_is_exact(tiny):
    tokens = tiny.tokenizer(TEXTS)
    torch.testing.assert_close(
        tiny.text_tower.encode(tokens), full_length(tiny).encode(tokens), atol=2e-6, rtol=0
    )


def test_layer_scale_and_linear_projection():
    backbone = random_clip(ls_init_value=0.3, proj_bias=True)
    assert isinstance(backbone.text_tower, CausalTextTower)
    tokens = backbone.tokenizer(TEXTS)
    expected = full_length(backbone).encode(tokens)
    torch.testing.assert_close(backbone.text_tower.encode(tokens), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    "text",
    [
        dict(no_causal_mask=True, pool_type="last"),  # SigLIP
        dict(embed_cls=True, output_tokens=False),  # CoCa
        dict(pool_type="first"),
        pytest.param(
            dict(qk_norm=True, block_type="custom"),
            marks=pytest.mark.skipif(
                not hasattr(open_clip.CLIPTextCfg, "qk_norm"), reason="this open_clip has none"
            ),
        ),
    ],
    ids=["siglip-like", "coca-like", "first-token", "custom-blocks"],
)
def test_other_towers_run_at_full_length(text):
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
        text_cfg=dict(width=64, heads=2, layers=2, context_length=24, **text),
    )
    tokenizer = byte_pairs(24)
    backbone = Backbone(model, tokenizer, Preprocess(32), name="other")
    assert isinstance(backbone.text_tower, FullLengthTextTower)
    texts = ["a cat", "two dogs in a boat"]
    expected = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
    torch.testing.assert_close(backbone.encode_text(texts), expected)
    prompts = backbone.pseudo_prompts(["a photo of {}"], 1)
    word = model.text.token_embedding.weight[tokenizer(["cat"])[0, 1]].detach()
    as_word = prompts.embed(torch.tensor([0]), word[None, None])
    torch.testing.assert_close(as_word, backbone.encode_text(["a photo of cat"]))


def test_custom_text_tower_with_causal_mask_is_fast():
    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
        text_cfg=dict(width=64, heads=2, layers=2),
    )
    backbone = Backbone(model, byte_pairs(), Preprocess(32), name="custom")
    assert isinstance(backbone.text_tower, CausalTextTower)
    tokens = backbone.tokenizer(TEXTS)
    expected = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(backbone.text_tower.encode(tokens), expected, atol=2e-6, rtol=0)


def test_encode_text_keeps_order_whatever_the_batches(tiny):
    texts = [("word " * (i % 7)).strip() + f" {i}" for i in range(40)]
    whole = tiny.encode_text(texts)
    small = tiny.encode_text(texts, batch_tokens=20)
    one_by_one = torch.cat([tiny.encode_text([text]) for text in texts])
    torch.testing.assert_close(whole, small, atol=2e-6, rtol=0)
    torch.testing.assert_close(whole, one_by_one, atol=2e-6, rtol=0)


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_prefix_cached_prompts_equal_full_length(tiny, num_tokens):
    fast = tiny.pseudo_prompts(TEMPLATES, num_tokens)
    placeholder = int(tiny.tokenizer(["$"])[0, 1])
    slots = " ".join(["$"] * num_tokens)
    tokens = tiny.tokenizer([t.replace("{}", f" {slots} ") for t in TEMPLATES])
    slow = pseudo_prompts(full_length(tiny), tokens, num_tokens, placeholder)
    index = torch.tensor([0, 1, 2, 3, 1, 1, 0, 2, 3, 3, 0, 1, 2, 0, 0])
    pseudo = torch.randn(len(index), num_tokens, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for prompts in (fast, slow):
        v = pseudo.clone().requires_grad_(True)
        features = prompts.embed(index, v)
        target = torch.linspace(-1, 1, features.numel()).view_as(features)
        results.append((features, torch.autograd.grad((features * target).sum(), v)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=2e-6, rtol=0)
    scale = results[1][1].abs().max()
    torch.testing.assert_close(results[0][1] / scale, results[1][1] / scale, atol=1e-5, rtol=0)


def test_bf16_tower_is_close_and_returns_float32(golden, tiny):
    rough = load_backbone(golden / "tiny_clip.safetensors", precision="bf16")
    a, b = tiny.encode_text(TEXTS), rough.encode_text(TEXTS)
    assert b.dtype == torch.float32
    assert float((a * b).sum(1).min()) > 0.999
    assert torch.allclose(b.norm(dim=1), torch.ones(len(b)), atol=1e-6)


def test_frozen_weights_get_no_gradient(tiny):
    before = copy.deepcopy(tiny.model.state_dict())
    h = F.normalize(torch.ones(2, 64), dim=-1)
    LiveInverter(tiny.pseudo_prompts(TEMPLATES, 1), len(TEMPLATES))(h, torch.arange(2))
    assert all(p.grad is None and not p.requires_grad for p in tiny.model.parameters())
    assert all(torch.equal(before[k], v) for k, v in tiny.model.state_dict().items())


def test_imagenet_templates_hold_the_pseudo_token(tiny):
    templates = prompt_set("imagenet80")
    assert tiny.pseudo_prompts(templates, 1).length.numel() == 80


@pytest.mark.parametrize("template", ["word " * 90 + "{}", "costs $ {}"])
def test_template_that_cannot_hold_the_pseudo_token(tiny, template):
    with pytest.raises(TextTowerError, match="pseudo-token"):
        tiny.pseudo_prompts([template], 1)


@pytest.mark.parametrize("native", [True, False])
def test_an_emulated_precision_is_warned_of(monkeypatch, recwarn, native):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch does not tell what the CPU can do")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    load_backbone("miniature", precision="bf16")
    load_backbone("miniature")
    said = [str(w.message) for w in recwarn if "emulates" in str(w.message)]
    assert len(said) == (0 if native else 1)
    assert native or "bf16" in said[0]

"""Inversions: the same at full length, in any batch, order and chunk."""

import pytest
import torch
import torch.nn.functional as F
from helpers import TEMPLATES, plain_prompts, random_clip

from openood_interneg.negatives import inversion
from openood_interneg.negatives.inversion import LiveInverter, invert, random_start
from openood_interneg.vlm.factory import load_backbone


def test_steps_equal_full_length_steps():
    """From the same tokens, one AdamW step after another: rounding is not left to pile up."""
    backbone = random_clip(quick_gelu=True)
    h = F.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    fast, slow = backbone.pseudo_prompts(TEMPLATES, 1), plain_prompts(backbone, TEMPLATES, 1)
    tokens, schedule = random_start(range(6), 0, 1, 64, len(TEMPLATES), 5)
    for step in schedule:
        a, b = (invert(prompts, h, tokens, step[None]) for prompts in (fast, slow))
        torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(a[2], b[2], atol=1e-5, rtol=0)
        tokens = b[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inversion_depends_on_neither_batch_nor_order_nor_chunk(precision, monkeypatch):
    backbone = random_clip(precision)
    h = F.normalize(torch.randn(11, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    ids = torch.arange(11) + 40
    prompts = backbone.pseudo_prompts(TEMPLATES, 1)
    steps = 3 if precision == "fp32" else 1  # AdamW's first steps amplify rounding
    tolerance = 2e-4 if precision == "fp32" else 5e-2
    live = LiveInverter(prompts, len(TEMPLATES), steps=steps, seed=2)
    whole = live(h, ids)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    shuffled = torch.empty_like(whole)
    shuffled[order] = live(h[order], ids[order])
    alone = torch.cat([live(h[i : i + 1], ids[i : i + 1]) for i in range(11)])
    monkeypatch.setattr(inversion, "CHUNK_BYTES", 3 * prompts.bytes_per_image)
    chunked = live(h, ids)
    for other in (shuffled, alone, chunked):
        torch.testing.assert_close(whole, other, atol=tolerance, rtol=0)


def test_nothing_gated_inverts_nothing():
    prompts = random_clip().pseudo_prompts(TEMPLATES, 1)
    out = LiveInverter(prompts, len(TEMPLATES))(torch.empty(0, 32), torch.empty(0).long())
    assert out.shape == (0, 32)


# AdamW's first steps follow the sign of the gradient, so on random weights rounding is amplified
# from step to step; two full-length runs in batches of other sizes differ by as much.
@pytest.mark.parametrize(
    ("source", "steps", "tolerance"),
    [("miniature", 10, 1e-5), ("tiny", 1, 1e-5), ("tiny", 10, 1e-4)],
)
def test_inversion_equals_full_length(tiny, miniature, source, steps, tolerance):
    """Same tokens and embeddings as 77 positions, and it does invert."""
    backbone = {"tiny": tiny, "miniature": miniature}[source]
    noise = torch.randn(12, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    images = backbone.encode_text(["a dog", "a cat", "two trees", "a blue car"] * 3)
    h = F.normalize(images + 0.3 * F.normalize(noise, dim=-1), dim=-1)
    width = backbone.text_tower.width
    tokens, schedule = random_start(range(12), 3, 1, width, len(TEMPLATES), steps)
    slow = plain_prompts(backbone, TEMPLATES, 1)
    a = invert(backbone.pseudo_prompts(TEMPLATES, 1), h, tokens, schedule)
    b = invert(slow, h, tokens, schedule)
    for fast, plain in zip(a[:2], b[:2], strict=True):
        assert float((fast - plain).norm() / plain.norm()) < tolerance
    if steps > 1:
        assert float(a[2][-1].mean()) < float(a[2][0].mean()) - 0.1


def test_inversion_depends_on_the_seed_and_on_no_chunk(tiny):
    h = F.normalize(torch.randn(9, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    ids = torch.arange(100, 109)
    prompts = tiny.pseudo_prompts(TEMPLATES, 1)
    whole = LiveInverter(prompts, len(TEMPLATES), seed=5)(h, ids)
    chunked = LiveInverter(prompts, len(TEMPLATES), seed=5, chunk=2)(h, ids)
    order = torch.tensor([4, 8, 0, 2, 6, 1, 3, 7, 5])
    shuffled = LiveInverter(prompts, len(TEMPLATES), seed=5)(h[order], ids[order])
    torch.testing.assert_close(whole, chunked, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole[order], shuffled, atol=1e-4, rtol=0)
    other_seed = LiveInverter(prompts, len(TEMPLATES), seed=6)(h, ids)
    assert float((other_seed - whole).abs().max()) > 1e-3


def test_draws_depend_on_seed_and_key_alone():
    one, schedule = random_start([7], 0, 2, 16, 80, 10)
    many, schedules = random_start([3, 7, 9], 0, 2, 16, 80, 10)
    assert torch.equal(one[0], many[1]) and torch.equal(schedule[:, 0], schedules[:, 1])
    assert not torch.equal(one[0], random_start([7], 1, 2, 16, 80, 10)[0][0])
    assert not torch.equal(many[0], many[2])
    tokens, schedule = random_start(range(3000), 0, 1, 32, 80, 10)
    assert abs(float(tokens.mean())) < 3e-4 and abs(float(tokens.std()) - 0.02) < 3e-4
    counts = torch.bincount(schedule.flatten(), minlength=80)
    assert len(counts) == 80 and int(counts.min()) > 250 and int(counts.max()) < 500


def test_bf16_inversion_comes_as_close_to_the_image(miniature):
    rough = load_backbone("miniature", precision="bf16")
    h = miniature.encode_text(["a dog", "a cat", "two trees", "a blue car"])
    losses = []
    for backbone in (miniature, rough):
        inverted = LiveInverter(backbone.pseudo_prompts(TEMPLATES[:1], 1), 1)(h, torch.arange(4))
        losses.append(1 - (inverted * h).sum(1))
    assert float((losses[0] - losses[1]).abs().max()) < 0.02

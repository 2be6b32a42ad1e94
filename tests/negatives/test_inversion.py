"""Inversions: the same at full length, in any batch, order and chunk."""

import pytest
import torch
import torch.nn.functional as F
from helpers import TEMPLATES, plain_prompts, random_clip

from openood_interneg.negatives import inversion
from openood_interneg.negatives.inversion import LiveInverter, invert, random_start


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

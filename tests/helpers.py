"""What several test files need: random unit rows, a random CLIP, stored entries."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import open_clip
import pytest
import torch
import torch.nn.functional as F

from openood_interneg.data.store import Entry, Rows, Store
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.pseudo_prompts import PseudoPrompts, pseudo_prompts
from openood_interneg.vlm.text_tower import FullLengthTextTower
from openood_interneg.vlm.tokenizers import byte_pairs

# different prefixes, different rests, one with nothing before and one with nothing after
TEMPLATES = ("a photo of {}", "a {} in a video game.", "{}", "itap of my {}.", "the big {}")


def unit_rows(count: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Random unit rows, (count, dim)."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=-1)


def cosine(a, b) -> float:
    """Cosine of two vectors in Python's own floats."""
    a, b = [float(x) for x in a], [float(x) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def random_clip(precision="fp32", width=64, heads=2, layers=3, text=None, **options) -> Backbone:
    """A small CLIP with random weights and a context of 24 tokens."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
        text_cfg=dict(width=width, heads=heads, layers=layers, context_length=24) | (text or {}),
        **options,
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.12)
    tokenizer = byte_pairs(24)
    return Backbone(model, tokenizer, Preprocess(32), name="random", precision=precision)


def plain_prompts(backbone, templates, count) -> PseudoPrompts:
    """The same prompts at full length, with autograd's own backward."""
    placeholder = int(backbone.tokenizer(["$"])[0, 1])
    slots = " ".join(["$"] * count)
    ids = backbone.tokenizer([t.replace("{}", f" {slots} ") for t in templates])
    tower = FullLengthTextTower(backbone.model.encode_text, backbone.model.token_embedding)
    return pseudo_prompts(tower, ids, count, placeholder)


STORED_ROWS = {"features": Rows((4,), values="unit")}


def filled(root, seed: int = 0) -> tuple[Entry, torch.Tensor]:
    """An entry of three shards of equal size, and what it holds."""
    entry = Store(root).entry("features", {"seed": seed}, 6, 2, STORED_ROWS)
    truth = unit_rows(6, 4, seed)

    def compute(shards):
        for shard in shards:
            yield {"features": truth[entry.span(shard)]}

    entry.fill(compute)
    return entry, truth


@contextmanager
def healed(match: str = "made anew") -> Iterator[None]:
    """Something of the store is made anew in here, with a warning."""
    with pytest.warns(UserWarning, match=match):
        yield


@contextmanager
def silent() -> Iterator[None]:
    """No warning in here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield

"""Texts in a precision of their own: same features as a backbone of that precision gives."""

import pytest
import torch

from openood_interneg.vlm import text_precision as module
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.text_precision import text_backbone, text_precision

TEXTS = ["a", "The nice cat.", "a photo of a very large dog in the snow"]


@pytest.fixture
def tiny():
    return load_backbone("miniature")


def test_texts_are_those_of_a_backbone_of_that_precision(tiny):
    before = tiny.encode_text(TEXTS)
    low = text_backbone(tiny, "bf16")
    assert (low.precision, low.digest, low.model) == ("bf16", tiny.digest, tiny.model)
    whole = load_backbone("miniature", precision="bf16")
    assert torch.equal(low.encode_text(TEXTS), whole.encode_text(TEXTS))
    assert not torch.equal(low.encode_text(TEXTS), before)
    assert torch.equal(text_backbone(whole, "fp32").encode_text(TEXTS), before)
    assert torch.equal(tiny.encode_text(TEXTS), before)  # it is as it was
    assert text_backbone(tiny, "bf16") is low  # its tower is built once


def test_its_own_precision_is_the_backbone_itself(tiny):
    assert text_backbone(tiny, "same") is tiny
    assert text_backbone(tiny, "fp32") is tiny


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_where_the_device_has_it(tiny, monkeypatch, has):
    monkeypatch.setattr(module, "has_bf16", lambda device: has)
    assert text_precision(tiny, "auto") == ("bf16" if has else "fp32")
    half = load_backbone("miniature", precision="fp16")
    assert text_precision(half, "auto") == "fp16"

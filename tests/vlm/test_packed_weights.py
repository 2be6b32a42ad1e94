"""The miniature's weights come out of their parts as they went in, but for 11 bits' rounding."""

import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openood_interneg import load_backbone
from openood_interneg.vlm.packed_weights import unpacked

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    yield pytest.importorskip("pack_miniature")
    sys.modules.pop("pack_miniature", None)


def test_matrices_are_rounded_and_small_tensors_are_fp16(tool):
    chance = torch.Generator().manual_seed(0)
    state = {
        "wide": torch.randn(60, 200, generator=chance) * torch.logspace(-3, 3, 60)[:, None],
        "kernel": torch.randn(40, 30, 3, 3, generator=chance),
        "bias": torch.randn(64, generator=chance),
        "scale": torch.tensor(3.7),
    }
    state["wide"][7] = 0
    parts = tool.packed(state)
    assert {parts[name].dtype for name in ("wide.high", "kernel.high")} == {torch.int8}
    assert parts["wide.low"].numel() == 6000
    back = unpacked(parts)
    assert {name: value.shape for name, value in back.items()} == {
        name: value.shape for name, value in state.items()
    }
    for name in ("wide", "kernel"):
        rows, again = state[name].flatten(1), back[name].flatten(1)
        half_step = rows.abs().amax(dim=1, keepdim=True) / 1023 / 2
        assert ((rows - again).abs() <= half_step * 1.001).all()
        largest = rows.abs().argmax(dim=1, keepdim=True)
        assert torch.allclose(rows.gather(1, largest), again.gather(1, largest))
    for name in ("bias", "scale"):
        assert torch.equal(back[name], state[name].half().float())


def test_the_package_ships_what_the_tool_writes(tool):
    path = files("openood_interneg.vlm") / "miniature" / "packed.safetensors"
    shipped = load_file(path)
    again = tool.packed(unpacked(shipped))
    assert again.keys() == shipped.keys()
    assert all(
        torch.equal(again[n], t) for n, t in shipped.items() if n.endswith((".high", ".low"))
    )


@pytest.mark.slow
def test_tokens_of_the_packaged_words_are_kept(tool):
    path = files("openood_interneg.vlm") / "miniature" / "packed.safetensors"
    known = tool.known_tokens()
    kept = unpacked(load_file(path))[tool.TOKENS].abs().sum(dim=1) > 0
    assert kept[known].all() and 0.4 < kept.float().mean() < 0.6


def test_the_miniature_has_these_weights():
    path = files("openood_interneg.vlm") / "miniature" / "packed.safetensors"
    state = unpacked(load_file(path))
    model = load_backbone("miniature").model
    assert torch.equal(model.state_dict()["text_projection"], state["text_projection"])
    assert torch.equal(model.token_embedding.weight, state["token_embedding.weight"])

"""The hand-written backward pass of pseudo-tokens against autograd's."""

import pytest
import torch
from helpers import TEMPLATES, plain_prompts, random_clip

from openood_interneg.vlm.prompts import prompt_set


def features_and_gradient(prompts, index, pseudo):
    v = pseudo.clone().requires_grad_(True)
    features = prompts.embed(index, v)
    target = torch.linspace(-1, 1, features.numel()).view_as(features)
    gradient = torch.autograd.grad((features * target).sum(), v)[0]
    return features.detach(), gradient / gradient.abs().max()


class Odd(torch.nn.Module):
    """An activation that the tower has no closed form for."""

    def forward(self, x):
        return x * torch.tanh(x)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(quick_gelu=True),
        dict(layers=1),
        dict(width=96, heads=4, layers=2),
        dict(text=dict(ls_init_value=0.3)),
    ],
    ids=["gelu", "quick-gelu", "one-layer", "head-size-24", "layer-scale"],
)
def test_written_out_backward_equals_autograd(options, count):
    backbone = random_clip(**options)
    index = torch.tensor([0, 1, 2, 3, 4, 1, 1, 0, 2, 4])
    width = backbone.text_tower.width
    pseudo = torch.randn(len(index), count, width, generator=torch.Generator().manual_seed(1))
    for templates, which in ((TEMPLATES, index), (TEMPLATES[:1], index * 0)):
        fast = features_and_gradient(backbone.pseudo_prompts(templates, count), which, pseudo)
        slow = features_and_gradient(plain_prompts(backbone, templates, count), which, pseudo)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_any_activation():
    backbone = random_clip()
    for block in backbone.model.transformer.resblocks:
        block.mlp.gelu = Odd()
    index = torch.tensor([0, 1, 3])
    pseudo = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1))
    fast = features_and_gradient(backbone.pseudo_prompts(TEMPLATES, 1), index, pseudo)
    slow = features_and_gradient(plain_prompts(backbone, TEMPLATES, 1), index, pseudo)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_imagenet_templates_in_one_batch():
    backbone = random_clip()
    templates = prompt_set("imagenet80")
    index = torch.arange(80)
    pseudo = torch.randn(80, 1, 64, generator=torch.Generator().manual_seed(1))
    fast = features_and_gradient(backbone.pseudo_prompts(templates, 1), index, pseudo)
    slow = features_and_gradient(plain_prompts(backbone, templates, 1), index, pseudo)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

"""A CLIP as OpenOOD's network, on whatever device."""

import pytest
import torch
from torch import nn

from openood_interneg.demo.world import ID_KINDS
from openood_interneg.plugin.device import redirect_cuda
from openood_interneg.plugin.network import ClipZeroShot, NetworkError, as_clip


def test_adapter(net):
    x = torch.randn(3, 3, 64, 64)
    logits, feature = net(x, return_feature=True)
    assert logits.shape == (3, 10) and feature.shape == (3, net.feature_size)
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(3))
    weight, bias = net.get_fc()
    assert weight.shape == (10, net.feature_size) and not bias.any() and bias.shape == (10,)
    torch.testing.assert_close(feature @ torch.from_numpy(weight).t(), logits)
    listed = net(x, return_feature_list=True)[1]
    assert torch.equal(listed[0], feature)
    assert torch.equal(net.intermediate_forward(x), feature)
    assert torch.equal(net.get_fc_layer()(feature), logits)
    assert net.forward_threshold(x, 0.0).shape == (3, 10)
    assert torch.equal(net(feature), logits)  # features pass
    assert torch.equal(net.head()(feature), net(feature)) or torch.allclose(
        net.head()(feature), logits, rtol=1e-5
    )
    assert not net.training and not net.train().training


def test_gradients_reach_the_image_and_nothing_else(net):
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    net(x).logsumexp(dim=1).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())


def test_forms_of_clip(net):
    class Zeroshot(nn.Module):  # the shape of OpenOOD's own class
        def __init__(self, model, weights):
            super().__init__()
            self.model, self.zeroshot_weights = model, weights

    model = net.clip.model
    labels = net.fc.weight.detach() / net.logit_scale
    x = torch.randn(4, 3, 64, 64)
    wrapped = ClipZeroShot.wrap(Zeroshot(model, labels.t()), ID_KINDS)
    torch.testing.assert_close(wrapped(x), net(x))
    torch.testing.assert_close(ClipZeroShot.wrap(model, ID_KINDS)(x), net(x))
    assert as_clip(nn.DataParallel(net)) is net
    bare = Zeroshot(model, labels.t())
    with pytest.raises(NetworkError, match=r"ClipZeroShot\.wrap"):
        as_clip(bare)
    assert as_clip(bare, ID_KINDS) is as_clip(bare)
    with pytest.raises(NetworkError, match="no text tower"):
        as_clip(nn.Linear(2, 2))
    with pytest.raises(NetworkError, match="class names"):
        ClipZeroShot(net.clip, ID_KINDS[:3], labels=labels)


def test_redirect_cuda_means_the_given_device():
    cpu = torch.device("cpu")
    with redirect_cuda(cpu):
        assert torch.ones(2).cuda().device == cpu
        assert torch.ones(2, device="cuda").device == cpu
        assert torch.ones(2).to("cuda:0").device == cpu
        assert nn.Linear(2, 2).cuda().weight.device == cpu
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.ones(2).cuda()

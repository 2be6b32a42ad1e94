"""LoCoOp against slow versions written from the formulas, and its texts."""

import pytest
import torch
from trained_helpers import SIZE, WIDTH, by_hand, close, cosines, make_space, randn, softmax, unit

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.locoop import LoCoOp, LoCoOpSettings
from openood_interneg.detectors.mcm import MCM


def test_locoop_space(backbone, source, tmp_path):
    ctx = 0.1 * randn(4, WIDTH, seed=4)
    junk = {"token_prefix": randn(9, 1, WIDTH), "token_suffix": randn(9, 72, WIDTH)}
    prompt_space, detector = make_space(
        source, tmp_path, "locoop", {"state_dict": {"ctx": ctx, **junk}}
    )
    close(prompt_space.labels[3], by_hand(backbone, ctx, "ship"))
    views = torch.cat([unit(1, 6, 64, seed=5), unit(16, 6, 64, seed=6)])
    assert detector.step(views).score.shape == (6,)
    with pytest.raises(DetectorError, match="patches"):
        detector.step(unit(6, 64))


def test_glmcm_by_loops(prompt_space):
    views = unit(4, 6, SIZE, seed=5)
    score = LoCoOp(LoCoOpSettings(tau=0.2)).fit(prompt_space).step(views).score
    for b in range(6):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        expected = max(softmax(cosines(whole, prompt_space.labels), 0.2))
        expected += max(max(softmax(cosines(p, prompt_space.labels), 0.2)) for p in patches)
        assert score[b].item() == pytest.approx(expected, abs=1e-6)


def test_locoop_without_patches_is_mcm(prompt_space):
    features = unit(6, SIZE, seed=5)
    ours = LoCoOp(LoCoOpSettings(score="mcm")).fit(prompt_space)
    expected = MCM().fit(prompt_space).step(features)
    close(ours.step(features).score, expected.score)
    close(ours.step(torch.stack([features, features.flip(0)])).score, expected.score)

"""Local-Prompt against slow versions written from the formulas, and its texts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_helpers import (
    CLASSES,
    NAMES,
    SIZE,
    WIDTH,
    by_hand,
    close,
    cosines,
    make_space,
    randn,
    softmax,
    unit,
)

from openood_interneg.detectors.local_prompt import LocalPrompt, LocalPromptSettings


def test_local_prompt_space(backbone, source, tmp_path):
    local, neg = 0.1 * randn(len(NAMES), 3, WIDTH), 0.1 * randn(6, 3, WIDTH, seed=1)
    content = {"state_dict": {"local_ctx": local, "neg_ctx": neg}}
    prompt_space, detector = make_space(source, tmp_path, "local_prompt", content)
    close(prompt_space.labels, backbone.encode_prompts(NAMES, ["a photo of a {}."]))
    close(prompt_space.extra["local"][3], by_hand(backbone, local[3], "ship"))
    close(prompt_space.negatives[5], by_hand(backbone, neg[5], ""))
    assert detector.step(unit(5, 2, 64)).score.shape == (2,)


@pytest.mark.parametrize("top", [1, 4, 1000])
def test_local_prompt_by_loops(prompt_space, top):
    prompt_space = replace(prompt_space, extra={"local": unit(CLASSES, SIZE, seed=6)})
    views = unit(4, 6, SIZE, seed=5)
    settings = LocalPromptSettings(tau=0.3, top=top)
    pred, score = LocalPrompt(settings).fit(prompt_space).step(views)
    texts = torch.cat([prompt_space.extra["local"], prompt_space.negatives])
    for b in range(6):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        own = softmax(cosines(whole, prompt_space.labels), 0.3)
        masses = [m for p in patches for m in softmax(cosines(p, texts), 0.3)[:CLASSES]]
        best = sorted(masses)[-top:]
        assert score[b].item() == pytest.approx(max(own) + sum(best) / len(best), abs=1e-6)
    assert pred.shape == (6,)


@pytest.mark.parametrize("top", [1, 3, 1000])
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_local_prompt_predicts_by_global_and_local_prompts(prompt_space, top, tau):
    local = unit(CLASSES, SIZE, seed=6)
    views = unit(6, 40, SIZE, seed=5)
    settings = LocalPromptSettings(tau=tau, top=top)
    detector = LocalPrompt(settings).fit(replace(prompt_space, extra={"local": local}))
    pred = detector.step(views).pred
    expected = []
    for b in range(40):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        product = []
        for i in range(CLASSES):
            near = sorted(math.exp(cosines(p, local)[i] / tau) for p in patches)[-top:]
            product.append(math.exp(cosines(whole, prompt_space.labels)[i]) * sum(near) / len(near))
        expected.append(int(np.argmax(product)))
    assert pred.tolist() == expected
    alone = (views[0] @ prompt_space.labels.t()).argmax(dim=1)
    assert (alone != torch.tensor(expected)).any()  # the local prompts do decide

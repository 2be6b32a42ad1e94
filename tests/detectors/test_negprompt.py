"""NegPrompt against slow versions written from the formulas, and its texts."""

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

from openood_interneg.detectors.negprompt import NegPrompt, NegPromptSettings


@pytest.mark.parametrize("own", [False, True])
def test_negprompt_space(backbone, source, tmp_path, own):
    lead = (len(NAMES),) if own else ()
    positive, negative = 0.1 * randn(*lead, 1, 3, WIDTH), 0.1 * randn(*lead, 2, 3, WIDTH, seed=1)
    content = {
        "prompt_learner.ctx_positive": positive,
        "prompt_learner.ctx_negative": negative,
        "logit_scale": torch.tensor(1.0),
    }
    prompt_space, _ = make_space(source, tmp_path, "negprompt", content)
    assert prompt_space.negatives.shape == (2 * len(NAMES), 64)
    own_positive = positive[1, 0] if own else positive[0]
    own_negative = negative[1, 1] if own else negative[1]
    close(prompt_space.labels[1], by_hand(backbone, own_positive, "sea lion", ""))
    close(prompt_space.negatives[len(NAMES) + 1], by_hand(backbone, own_negative, "sea lion", ""))


def test_negprompt_by_loops(prompt_space):
    features = unit(6, SIZE, seed=5)
    score = NegPrompt(NegPromptSettings(tau=0.4)).fit(prompt_space).step(features).score
    texts = torch.cat([prompt_space.labels, prompt_space.negatives])
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        assert s == pytest.approx(max(softmax(cosines(h, texts), 0.4)[:CLASSES]), abs=1e-6)

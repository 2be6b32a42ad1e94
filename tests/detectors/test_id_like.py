"""ID-Like against slow versions written from the formulas, and its texts."""

import pytest
import torch
from trained_helpers import (
    CLASSES,
    SCALE,
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

from openood_interneg.detectors.id_like import IDLike


@pytest.mark.parametrize("learned_class", [False, True])
def test_id_like_space(backbone, source, tmp_path, learned_class):
    ctx, ex = 0.1 * randn(2, WIDTH), 0.1 * randn(3, 2, WIDTH, seed=1)
    content = {
        "prompt_learner_state_dict": {"ctx": ctx},
        "ex_prompt_learner_state_dict": {"ctx": ex},
    }
    prompt = ex[1]
    if learned_class:
        cls = 0.1 * randn(3, 1, WIDTH, seed=2)
        content["ex_prompt_learner_state_dict"]["cls"] = cls
        prompt = torch.cat([prompt, cls[1]])
    prompt_space, detector = make_space(source, tmp_path, "id_like", content, groups=1)
    assert prompt_space.negatives.shape == (3, 64)
    close(prompt_space.labels[0], by_hand(backbone, ctx, "cat"))
    close(prompt_space.negatives[1], by_hand(backbone, prompt, ""))
    assert detector.step(unit(5, 64)).score.shape == (5,)


def test_id_like_is_the_plain_mass(prompt_space):
    features = unit(6, SIZE, seed=5)
    score = IDLike().fit(prompt_space).step(features).score
    texts = torch.cat([prompt_space.labels, prompt_space.negatives])
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        p = softmax([SCALE * c for c in cosines(h, texts)])
        assert s == pytest.approx(sum(p[:CLASSES]), abs=1e-5)

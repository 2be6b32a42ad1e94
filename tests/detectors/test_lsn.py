"""LSN against slow versions written from the formulas, and its texts."""

from dataclasses import replace

import pytest
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

from openood_interneg.detectors.lsn import LSN, LSNSettings
from openood_interneg.vlm.trained_prompts import (
    TrainedPromptError,
)


def test_lsn_space(backbone, source, tmp_path):
    content = {"yes": {"ctx": 0.1 * randn(3, WIDTH)}}
    content |= {f"no{k}": {"ctx": 0.1 * randn(len(NAMES), 2, WIDTH, seed=k)} for k in (1, 2, 3)}
    prompt_space, detector = make_space(source, tmp_path, "lsn", content)
    assert prompt_space.extra["no"].shape == (3, len(NAMES), 64)
    close(prompt_space.extra["no"][1, 3], by_hand(backbone, content["no2"]["ctx"][3], "ship"))
    assert detector.step(unit(5, 64)).score.shape == (5,)
    with pytest.raises(TrainedPromptError, match=r"no1\.ctx"):
        make_space(source, tmp_path, "lsn", {"yes": {"ctx": randn(3, WIDTH)}}, tau=0.5)


def test_lsn_by_loops(prompt_space):
    no = unit(3, CLASSES, SIZE, seed=7)
    features = unit(6, SIZE, seed=5)
    settings = LSNSettings(tau=0.5, negative_tau=0.7)
    score = LSN(settings).fit(replace(prompt_space, extra={"no": no})).step(features).score
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        expected = max(softmax(cosines(h, prompt_space.labels), 0.5))
        for texts in no:
            expected += max(softmax([1 - c for c in cosines(h, texts)], 0.7)) / 3
        assert s == pytest.approx(expected, abs=1e-6)

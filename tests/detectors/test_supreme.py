"""SUPREME against slow versions written from the formulas, and its texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch.nn.functional as F
from trained_helpers import (
    CLASSES,
    SIZE,
    close,
    cosines,
    make_space,
    randn,
    softmax,
    unit,
)

from openood_interneg.detectors.supreme import Supreme, SupremeSettings
from openood_interneg.settings import SettingsError


def test_supreme_space(source, tmp_path):
    content = {"text_prototypes": randn(4, 64), "image_prototypes": randn(4, 64, seed=1)}
    prompt_space, detector = make_space(source, tmp_path, "supreme", content)
    close(prompt_space.labels, F.normalize(content["text_prototypes"], dim=-1))
    assert detector.step(unit(5, 64)).score.shape == (5,)
    content["image_prototypes"] = randn(3, 64)
    with pytest.raises(SettingsError, match="image_prototypes"):
        make_space(source, tmp_path, "supreme", content, tau=0.5)


def test_supreme_by_loops(prompt_space):
    image, mapping = unit(CLASSES, SIZE, seed=8), randn(SIZE, SIZE, seed=9)
    prompt_space = replace(prompt_space, extra={"image": image, "map": mapping})
    features = unit(6, SIZE, seed=5)
    for combine, join in (("max", max), ("mean", lambda v: sum(v) / len(v))):
        settings = SupremeSettings(tau=0.3, combine=combine)
        score = Supreme(settings).fit(prompt_space).step(features).score
        for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
            mapped = mapping.double().numpy() @ h
            queries = (h, mapped / np.linalg.norm(mapped))
            every = [
                max(softmax(cosines(q, p), 0.3))
                for q in queries
                for p in (prompt_space.labels, image)
            ]
            assert s == pytest.approx(join(every), abs=1e-6)

"""CLIPN against slow versions written from the formulas, and its texts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch.nn.functional as F
from trained_helpers import (
    CLASSES,
    NAMES,
    SCALE,
    SIZE,
    WIDTH,
    close,
    cosines,
    make_space,
    randn,
    softmax,
    unit,
)

from openood_interneg.detectors.clipn import CLIPN, CLIPNSettings
from openood_interneg.vlm.trained_prompts import (
    TrainedPromptError,
    no_features,
)


def no_tower(backbone, seed=None):
    """The backbone's own text tower under CLIPN's names; with a seed, moved a little."""
    parts = ("token_embedding.", "transformer.", "ln_final.")
    out = {}
    for name, value in backbone.model.state_dict().items():
        whole = name in ("positional_embedding", "text_projection")
        if whole or name.startswith(parts):
            head, dot, rest = name.partition(".")
            value = value.clone()
            if seed is not None and value.is_floating_point():
                value += 0.05 * randn(*value.shape, seed=seed)
            out[f"module.{head}_no{dot}{rest}"] = value
    return out


def test_clipn_tower(backbone, source, tmp_path):
    templates = ("a photo of a {}.", "the {}")
    same = no_features(backbone, no_tower(backbone), NAMES, templates)
    close(same, backbone.encode_prompts(NAMES, templates))
    # prompt_no is added at every position: by hand, through the model's own layers.
    shift = 0.1 * randn(3, 77, WIDTH)
    moved = no_features(backbone, no_tower(backbone) | {"prompt_no": shift}, ["cat"], ["the {}"])
    model, tokens = backbone.model, backbone.tokenizer(["the cat"])
    x = model.token_embedding(tokens) + model.positional_embedding + shift.mean(0)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))[0, tokens.argmax()]
    close(moved[0], F.normalize(x @ model.text_projection, dim=-1))

    content = {"epoch": 10, "state_dict": no_tower(backbone, seed=3)}
    values = {"label_prompt": "simple"}
    prompt_space, detector = make_space(source, tmp_path, "clipn", content, **values)
    assert (prompt_space.extra["no"] - prompt_space.labels).abs().max() > 1e-2
    score = detector.step(unit(5, 64)).score
    assert bool(((score > 0) & (score < 1)).all())
    del content["state_dict"]["module.ln_final_no.bias"]
    with pytest.raises(TrainedPromptError, match="ln_final_no"):
        make_space(source, tmp_path, "clipn", content, tau=0.5, **values)


def test_clipn_takes_the_authors_prompt_file(backbone, source, tmp_path):
    (tmp_path / "prompt.txt").write_text('"a photo of a {}."\n"a blurry photo of a {}."\n')
    tensors = no_tower(backbone, seed=3)
    file = str(tmp_path / "prompt.txt")
    prompt_space, _ = make_space(source, tmp_path, "clipn", tensors, label_prompt=file)
    written = ('"a photo of a {}."', '"a blurry photo of a {}."')
    names = source.class_names
    close(prompt_space.labels, backbone.encode_prompts(names, written))
    close(prompt_space.extra["no"], no_features(backbone, tensors, names, written))


@pytest.mark.parametrize("rule", ["ctw", "atd"])
def test_clipn_by_loops(prompt_space, rule):
    no = unit(CLASSES, SIZE, seed=7)
    features = unit(6, SIZE, seed=5)
    detector = CLIPN(CLIPNSettings(score=rule)).fit(replace(prompt_space, extra={"no": no}))
    for h, s in zip(features.double().numpy(), detector.step(features).score.tolist(), strict=True):
        yes = [SCALE * c for c in cosines(h, prompt_space.labels)]
        nos = [SCALE * c for c in cosines(h, no)]
        q = [1 / (1 + math.exp(n - y)) for y, n in zip(yes, nos, strict=True)]
        if rule == "ctw":
            expected = q[int(np.argmax(yes))]
        else:
            expected = sum(p * x for p, x in zip(softmax(yes), q, strict=True))
        assert s == pytest.approx(expected, abs=1e-5)

"""ZOC against slow versions written from the formulas, and its texts."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from trained_helpers import CLASSES, NAMES, SCALE, SIZE, blob, close, unit

from openood_interneg.data.image_ids import image_ids
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.zoc import ZOC
from openood_interneg.negatives.text_space import TextSpace


@pytest.fixture
def caption_file(tmp_path):
    path = tmp_path / "candidates.txt"
    path.write_text("img0\tbee|Sea Lion|flower\nimg1\t\nimg2\tlamp\n")
    return str(path)


def test_zoc(backbone, source, caption_file):
    method = get_method("zoc")
    settings = method.make_settings({"captions": caption_file})
    prompt_space = source.space_for(method, settings)
    features = unit(4, 64, seed=3)
    ids = image_ids(["img2", "img0", "img1", "img0"])
    pred, score = method.make(settings).fit(prompt_space).step(features, ids)
    candidates = {"img0": ["bee", "flower"], "img1": [], "img2": ["lamp"]}  # labels left out
    for b, image in enumerate(("img2", "img0", "img1", "img0")):
        prompts = [f"This is a photo of a {w}" for w in [*NAMES, *candidates[image]]]
        texts = backbone.encode_text(prompts).double()
        p = (backbone.logit_scale * texts @ features[b].double()).softmax(0)
        assert score[b].item() == pytest.approx(p[: len(NAMES)].sum().item(), abs=1e-5)
        assert pred[b].item() == int(p[: len(NAMES)].argmax())
    assert score[2] == 1
    single = [
        method.make(settings).fit(prompt_space).step(features[b : b + 1], ids[b : b + 1]).score
        for b in range(4)
    ]
    close(torch.cat(single), score)
    with pytest.raises(DetectorError, match="1 of 2 images"):
        method.make(settings).fit(prompt_space).step(features[:2], image_ids(["img0", "img9"]))


def test_zoc_blobs():
    labels, others = unit(CLASSES, SIZE, seed=1), unit(40, SIZE, seed=2)
    ids, oods = blob(labels, 3, 60), blob(others, 4, 60)
    # Every image has two candidates; an OOD image's own text is one of them.
    rows = torch.stack([torch.arange(120) % 40, (torch.arange(120) * 7 + 3) % 40], 1)
    rows[60:, 0] = torch.arange(60) % 40
    extra = {
        "caption_keys": torch.arange(120),
        "caption_offsets": torch.arange(0, 241, 2),
        "caption_rows": rows.flatten(),
        "caption_texts": others,
    }
    prompt_space = TextSpace(labels=labels, logit_scale=SCALE, negatives=labels[:0], extra=extra)
    score = ZOC().fit(prompt_space).step(torch.cat([ids, oods]), torch.arange(120)).score
    truth = np.repeat([1, 0], 60)
    assert roc_auc_score(truth, score.numpy()) > 0.95
    again = torch.cat([ids, blob(labels, 5, 60)])
    same = ZOC().fit(prompt_space).step(again, torch.arange(120).roll(60)).score
    score = ZOC().fit(prompt_space).step(again, torch.arange(120)).score
    mean = (score + same) / 2  # either half with either candidates
    assert abs(roc_auc_score(truth, mean.numpy()) - 0.5) < 0.12

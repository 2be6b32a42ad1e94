"""CoVer against slow versions written from the formulas, and its texts."""

import math

import numpy as np
import pytest
import torch
from memory_helpers import SIZE, auroc, unit

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.cover import CoVer, CoVerSettings
from openood_interneg.detectors.mcm import MCM
from openood_interneg.settings import SettingsError


def test_cover_brute_force(space):
    views = unit(5, 7, SIZE, seed=10)
    detector = CoVer(CoVerSettings(tau=0.3)).fit(space)
    pred, score = detector.step(views)
    labels = space.labels.double().numpy()
    for image in range(7):
        confidences = []
        for view in views[:, image].double().numpy():
            logits = [float(view @ e) / 0.3 for e in labels]
            total = sum(math.exp(z) for z in logits)
            confidences.append(max(math.exp(z) / total for z in logits))
        assert score[image].item() == pytest.approx(sum(confidences) / 5, abs=1e-6)
        cosines = [float(views[0, image].double().numpy() @ e) for e in labels]
        assert pred[image].item() == int(np.argmax(cosines))


@pytest.mark.parametrize("leading", [False, True])
def test_cover_of_one_view_is_mcm(space, stream, leading):
    views = stream[None] if leading else stream
    ours = CoVer().fit(space).step(views)
    mcm = MCM().fit(space).step(stream)
    assert torch.equal(ours.pred, mcm.pred)
    torch.testing.assert_close(ours.score, mcm.score)


def test_cover_does_not_depend_on_batches(space):
    views = unit(3, 12, SIZE, seed=11)
    whole = CoVer().fit(space).step(views).score
    parts = [CoVer().fit(space).step(part).score for part in views.split(5, dim=1)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_cover_blobs(space):
    assert auroc(CoVer(CoVerSettings(tau=0.05)), space) > 85
    assert abs(auroc(CoVer(CoVerSettings(tau=0.05)), space, same=True) - 50) < 8


def test_cover_refuses(space):
    detector = CoVer()
    with pytest.raises(DetectorError, match="not fitted"):
        detector.step(unit(2, SIZE))
    detector.fit(space)
    with pytest.raises(DetectorError, match="shape"):
        detector.step(unit(2, 3, SIZE + 1))
    views = unit(2, 3, SIZE)
    views[1, 1, 0] = float("nan")
    with pytest.raises(DetectorError, match="NaN"):
        detector.step(views)
    with pytest.raises(SettingsError, match="recommended13"):
        CoVerSettings(views="some")

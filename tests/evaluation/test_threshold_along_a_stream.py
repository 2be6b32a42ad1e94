"""A threshold from before the stream soon rejects most ID images; one that follows does not."""

import numpy as np
import pytest
import torch

from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.protocols import stream
from openood_interneg.negatives.space_builder import TextSpaceBuilder

CLASSES = ID_KINDS[:4]
WORDS = (
    "dog river engine cloud ladder noise stripes checks dots texture pattern letter bird train "
    "whale wrench gear barn banana knife chair table bottle lamp phone boat plane bridge"
)
OTHERS = FAR_KINDS["textures"] + NEAR_KINDS
VALUES = {"num_negatives": 20, "images_per_class": 6}
CASES = {
    "interneg": VALUES | {"update": "sample", "steps": 3},
    "rationeg": VALUES | {"update": "sample", "shots_per_class": 6},
}


class Images:
    """ID images for the proxies."""

    labels = np.arange(24) % len(CLASSES)

    def __init__(self, rows):
        self.rows = rows

    def features(self, indices):
        return self.rows[torch.as_tensor(indices)]


@pytest.fixture(scope="module")
def pools(miniature):
    def drawn(kinds, name, count, first=0):
        transform = miniature.preprocess.transform()
        at = range(first, first + count)
        made = [draw(kinds[i % len(kinds)], image_rng(5, name, i)) for i in at]
        return miniature.encode_image(torch.stack([transform(image) for image in made]))

    return {
        "train": drawn(CLASSES, "train", 24),
        "calibration": drawn(CLASSES, "probe", 160),
        "probe": drawn(CLASSES, "probe", 160, first=1000),
        "stream": drawn(CLASSES, "test", 160),
        "ood": drawn(OTHERS, "othershapes", 120),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_false_alarms_along_a_stream(miniature, pools, tmp_path, name):
    corpus = tmp_path / "words.txt"
    corpus.write_text("\n".join(WORDS.split()))
    method = get_method(name)
    settings = method.make_settings(CASES[name] | {"corpus": str(corpus)})
    source = TextSpaceBuilder(miniature, CLASSES, Images(pools["train"]))
    detector = method.fitted(settings, source, lambda inversion: inversion.make())
    detector.watch(pools["calibration"], 0.95)
    fixed = detector.threshold

    features = torch.cat([pools["stream"], pools["ood"]])
    order = np.random.default_rng(0).permutation(len(features))
    said = stream(detector, features, torch.arange(len(features)), 20, order=order)
    is_id = torch.arange(len(features)) < len(pools["stream"])

    # 160 images: a share of 5 % comes out as 0 to 13 % in all but one of ten thousand draws.
    unknown = said.score < said.gamma
    assert float(unknown[is_id].float().mean()) <= 0.13
    probe = detector.score(pools["probe"]).score
    assert float((probe < detector.threshold).float().mean()) <= 0.13
    assert float(unknown[~is_id].float().mean()) > 0.4
    if name == "interneg":
        assert float((probe < fixed).float().mean()) > 0.3

"""MaxLogit against slow versions written from the formulas, and its texts."""

import numpy as np
from static_helpers import cosine, rows, same

from openood_interneg.detectors.maxlogit import MaxLogit


def test_maxlogit(image_space, image_stream):
    scores = MaxLogit().fit(image_space).step(image_stream)
    every = [cosine(h, image_space.labels) for h in rows(image_stream)]
    same(scores.score, [max(c) for c in every])
    assert scores.pred.tolist() == [int(np.argmax(c)) for c in every]

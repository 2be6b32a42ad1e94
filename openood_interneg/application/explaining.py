"""Explanations by a fitted detector."""

from __future__ import annotations

from typing import Any

from openood_interneg.application.explanation import Explanation, explain
from openood_interneg.application.scorer import Scorer
from openood_interneg.application.stream import predictions
from openood_interneg.data.image_sources import as_sources
from openood_interneg.data.images import ImageError
from openood_interneg.settings import checked


class Explainer(Scorer):
    """Explains scores."""

    def explain(self, image: Any, top: int = 5) -> Explanation:
        """Which texts and which remembered images decide an image's score; nothing is remembered.

        The shares are of the softmax over all labels, negatives and bank entries (G = 1).
        """
        self._fitted()
        top = checked("top", top, int, {"low": 1})
        sources = as_sources(image)
        if len(sources) != 1:
            raise ImageError(f"explain takes one image, not {len(sources)}")
        features, ids = self._encoder.encode(sources)
        with self._lock:
            detector = self._fitted()
            scores, judgement = self._judged(features, ids, None)
            (said,) = predictions(scores, judgement, self.class_names)
            return explain(
                detector,
                features.to(detector.space.device),
                score=said.score,
                label=said.label,
                known=None if judgement is None else bool(judgement.known[0]),
                gamma=said.gamma,
                p=said.p,
                alpha=self.alpha if self._threshold.by_p(detector) else None,
                top=top,
            )

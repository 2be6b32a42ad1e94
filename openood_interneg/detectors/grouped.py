"""The grouped softmax mass that NegLabel, CSP, LAPT and ID-Like share."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.scoring import group_order, grouped_score, logits
from openood_interneg.negatives.text_space import TextSpace


class GroupedSettings(Protocol):
    """Settings with a temperature and a number of groups."""

    @property
    def tau(self) -> float: ...

    @property
    def groups(self) -> int: ...


G = TypeVar("G", bound=GroupedSettings)


class GroupedDetector(Detector[G]):
    """Softmax mass of the ID labels against negatives, averaged over G groups of them."""

    def _fit(self, space: TextSpace) -> None:
        count, groups = len(space.negatives), self.settings.groups
        if 0 < count < groups:
            raise DetectorError(f"{count} negative texts do not make {groups} groups; set fewer")
        order = group_order(count, groups)
        self._texts = torch.cat([space.labels, space.negatives[order.to(space.device)]])

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, settings = self.space, self.settings
        every = logits(features, self._texts, space.logit_scale, settings.tau)
        classes = len(space.labels)
        id_logits, negative_logits = every[:, :classes], every[:, classes:]
        score = grouped_score(id_logits, negative_logits, settings.groups)
        return Scores(id_logits.argmax(dim=1), score)

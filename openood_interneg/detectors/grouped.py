"""The grouped softmax mass that NegLabel, CSP, LAPT and ID-Like share."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.scoring import (
    KEPT,
    exact,
    group_log_sums,
    group_order,
    id_mass,
    log_sum,
    logits,
)
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
        self._order = group_order(count, groups).to(space.device)

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, settings = self.space, self.settings
        id_logits = logits(features, space.labels, space.logit_scale, settings.tau)
        id_lse = id_logits.logsumexp(dim=1)
        return Scores(id_logits.argmax(dim=1), self._scores(features, id_lse))

    def _scores(self, features: Tensor, id_lse: Tensor) -> Tensor:
        """(B,) of images (B, D) and their log-sums over the labels (B,)."""
        space, tau, groups = self.space, self.settings.tau, self.settings.groups
        if groups == 1 or not len(self._order):
            negative = log_sum(features, space.negatives, space.logit_scale, tau)
            return id_mass(exact(id_lse), negative).to(id_lse)
        size = max(KEPT // len(space.negatives), 1)
        parts = [
            group_log_sums(logits(space.negatives, p, space.logit_scale, tau), self._order, groups)
            for p in features.split(size)
        ]
        return id_mass(exact(id_lse), torch.cat(parts)).mean(dim=1).to(id_lse)

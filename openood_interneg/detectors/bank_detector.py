"""What InterNeg and TINS score with: labels, mined negatives, and a bank that a stream fills."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.scoring import (
    group_order,
    grouped_score_from_lse,
    id_mass,
    logits,
)
from openood_interneg.detectors.watched import Watched
from openood_interneg.detectors.watched_bank import BesideBank, WatchedBank, WatchedGroups, beside
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings


class BankDetector(Detector[InterNegSettings]):
    """Softmax mass of the ID labels against mined negatives and the bank (Eq. 11).

    How the stream fills the bank is what subclasses add.

    Args:
        settings: hyper-parameters.
        inverter: (h, ids) -> unit rows; needed for `bank: inter` and `bank: intra`.
    """

    Settings = InterNegSettings

    def __init__(self, settings: InterNegSettings | None = None, inverter: Inverter | None = None):
        super().__init__(settings)
        self.inverter = inverter

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        settings = self.settings
        if settings.inverts and self.inverter is None:
            raise DetectorError(
                f"bank '{settings.bank}' inverts images and needs an inverter; pass one, or set "
                "bank: none"
            )
        floor = space.base if settings.bank == "inter" else space.image_base
        if settings.bank != "none" and (space.proxies is None or floor is None):
            raise DetectorError(
                f"bank '{settings.bank}' needs image proxies; give ID images, or set bank: none"
            )
        capacity = 0 if settings.bank == "none" else settings.bank_capacity
        # Labels, negatives, then the bank's rows where they lie: nothing is copied as it grows.
        fixed = len(space.labels) + len(space.negatives)
        dim = space.labels.shape[1]
        self._texts = torch.zeros(fixed + capacity, dim, device=space.device)
        self._texts[:fixed] = torch.cat([space.labels, space.negatives])
        self._bank_rows = self._texts[fixed:]
        self.bank = NegativeBank(capacity, dim, space.device)
        self._floor = floor
        self._beside: BesideBank | None = None
        self._ordered = 0, torch.arange(0, device=space.device)  # a number of columns, their order

    @property
    def remembers(self) -> bool:
        """Not without room for anything."""
        return self.bank.capacity > 0

    def reset(self) -> None:
        """Empties the bank."""
        self.bank.reset()
        self.seen = 0
        self.inverted = 0
        self._bank_changed()

    def state_dict(self) -> dict[str, Tensor]:
        """The bank, and how many images were seen and inverted."""
        counters = {"seen": torch.tensor(self.seen), "inverted": torch.tensor(self.inverted)}
        return {f"bank.{k}": v for k, v in self.bank.state_dict().items()} | counters

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: entries missing, or a bank that does not fit this detector.
        """
        try:
            self.bank.load_state_dict(
                {k.removeprefix("bank."): v for k, v in state.items() if k.startswith("bank.")}
            )
            self.seen, self.inverted = int(state["seen"]), int(state["inverted"])
        except KeyError as error:
            raise DetectorError(f"the stored state lacks {error}") from None
        except ValueError as error:
            raise DetectorError(str(error)) from None
        self._bank_changed()

    # ---- scoring -------------------------------------------------------------------------

    def _bank_changed(self) -> None:
        """With G > 1 finds the order of columns in which groups are runs, best negatives first."""
        self.bank.live_in(self._bank_rows)
        groups = self.settings.groups
        if groups == 1:
            return
        mined = len(self.space.negatives)
        first = torch.arange(mined, device=self.space.device)
        ranked = torch.cat([first, mined + self.bank.ranking])
        count = len(ranked)
        if count != self._ordered[0]:
            self._ordered = count, group_order(count, groups).to(ranked.device)
        self._columns = ranked[self._ordered[1]]

    def _all_logits(self, features: Tensor) -> Tensor:
        """(B, C + M + K) logits of labels, negatives and bank; columns of free places undefined."""
        every = features.new_empty(len(features), len(self._texts))
        used = len(self._texts) - self.bank.capacity + len(self.bank)
        torch.mm(features, self._texts[:used].t(), out=every[:, :used])
        every[:, :used] *= self.space.logit_scale / self.settings.tau
        return every

    def _negative_logits(self, every: Tensor) -> Tensor:
        """The negatives' logits (B, n) in group order: columns of `_all_logits`."""
        classes = len(self.space.labels)
        if self.settings.groups > 1:
            return every[:, classes:].index_select(1, self._columns)
        return every[:, classes : classes + len(self.space.negatives) + len(self.bank)]

    def _refresh(self, features: Tensor, every: Tensor, layout: int) -> None:
        """Brings `_all_logits` up to date after an `offer`: one column for each row written."""
        if self.bank.layout != layout:  # rows moved
            every.copy_(self._all_logits(features))
            return
        columns = self.bank.written + (len(self._texts) - self.bank.capacity)
        scale, tau = self.space.logit_scale, self.settings.tau
        every[:, columns] = logits(features, self._texts[columns], scale, tau)

    def _score(self, id_lse: Tensor, negative_logits: Tensor) -> Tensor:
        """Scores (B,) of the labels' log-sums (B,) and negative logits (B, n) in group order."""
        return grouped_score_from_lse(id_lse, negative_logits, self.settings.groups)

    def _single_score(self, id_lse: Tensor, negative_lse: Tensor, count: int) -> Tensor:
        """`_score` with one group, of the log-sums (B,) of `count` negatives."""
        return id_mass(id_lse, negative_lse)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`."""
        self._check(features)
        return self.score_with(features, self.bank.features)

    def score_with(self, features: Tensor, bank: Tensor) -> Scores:
        """Scores of features (B, D) as they would be with a bank of these rows (n, D)."""
        space, settings = self.space, self.settings
        negatives = torch.cat([space.negatives, bank])
        order = group_order(len(negatives), settings.groups).to(negatives.device)
        scale, tau = space.logit_scale, settings.tau
        id_logits = logits(features, space.labels, scale, tau)
        negative = logits(features, negatives[order], scale, tau)
        return Scores(id_logits.argmax(dim=1), self._score(id_logits.logsumexp(dim=1), negative))

    def _learned_negatives(self) -> Tensor:
        return self.bank.features

    # ---- watched ID images ---------------------------------------------------------------

    def _watch_begins(self) -> None:
        watched, settings = self._watched, self.settings
        self._beside = None
        if watched is not None:
            images, groups = watched.features, settings.groups
            self._beside = beside(self.bank, images, self.space, settings.tau, groups)

    def _watched_now(self, watched: Watched) -> Tensor:
        kept = self._beside
        if kept is None:
            return self.score(watched.features).score
        kept.follow(self.bank)
        if isinstance(kept, WatchedGroups):
            return self._score(kept.id_lse, kept.logits.index_select(1, self._columns))
        assert isinstance(kept, WatchedBank)
        count = len(self.space.negatives) + len(self.bank)
        if not count:
            return torch.ones(len(kept.id_lse), device=watched.features.device)
        return self._single_score(kept.id_lse, kept.negative_lse, count).to(watched.features)

    def _admitted(self) -> None:
        """The bank took what it was offered."""
        self._bank_changed()
        if self._beside is not None:
            self._beside.admitted(self.bank)

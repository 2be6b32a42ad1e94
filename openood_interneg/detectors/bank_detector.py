"""What InterNeg and TINS score with: labels, mined negatives, and a bank that a stream fills."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.batch_logits import EVERY, BatchGroups, BatchLogits, BatchSums
from openood_interneg.detectors.scoring import group_log_sums, group_order, id_mass
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
        self.bank = NegativeBank(capacity, space.labels.shape[1], space.device)
        self._floor = floor
        self._beside: BesideBank | None = None
        self._columns = torch.arange(0, device=space.device)
        self._ordered = 0, self._columns  # a number of columns, their order

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

    def _batch_logits(self, features: Tensor, bank: NegativeBank) -> BatchSums | BatchGroups:
        """Logits of images (B, D) beside a bank."""
        kind = BatchSums if self.settings.groups == 1 else BatchGroups
        return kind(features, self.space, self.settings.tau, bank)

    def _scores(self, every: BatchLogits, columns: Tensor, rows: slice = EVERY) -> Tensor:
        """Scores of some of a batch's images; with G > 1 of these columns, in group order."""
        if isinstance(every, BatchSums):
            negative, count = every.negative_lse(rows), every.count
        else:
            assert isinstance(every, BatchGroups)
            negative = every.negative_lse(columns, self.settings.groups, rows)
            count = len(columns)
        return self._score(every.id_lse[rows], negative, count)

    def _score(self, id_lse: Tensor, negative_lse: Tensor, count: int) -> Tensor:
        """Scores (B,) float32 of float64 log-sums.

        Args:
            id_lse: (B,) over the labels.
            negative_lse: (B,) over all negatives, or (B, G) over each group.
            count: how many negatives these are; without any an image scores 1.
        """
        if not count:
            return torch.ones(len(id_lse), device=self.space.device)
        shift = self._shift(count // self.settings.groups)
        mass = id_mass(id_lse + shift, negative_lse)
        return (mass if mass.dim() == 1 else mass.mean(dim=1)).to(self.space.labels)

    def _shift(self, size: int) -> float:
        """What is added to the labels' log-sum against groups of so many negatives."""
        return 0.0

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """See `Detector.score`."""
        self._check(features)
        return self.score_with(features, self.bank.features)

    def score_with(self, features: Tensor, bank: Tensor) -> Scores:
        """Scores of features (B, D) as they would be with a bank of these rows (n, D)."""
        every = self._batch_logits(features, NegativeBank.holding(bank))
        order = group_order(every.count, self.settings.groups).to(features.device)
        return Scores(every.id_logits.argmax(dim=1), self._scores(every, order))

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
            groups, columns = self.settings.groups, self._columns
            sums = group_log_sums(kept.logits, columns, groups)
            return self._score(kept.id_lse, sums, len(columns))
        assert isinstance(kept, WatchedBank)
        count = len(self.space.negatives) + len(self.bank)
        return self._score(kept.id_lse, kept.negative_lse, count)

    def _admitted(self) -> None:
        """The bank took what it was offered."""
        self._bank_changed()
        if self._beside is not None:
            self._beside.admitted(self.bank)

"""A batch's logits beside a bank: what is kept of them, so that an admission costs a column."""

from __future__ import annotations

import torch
from torch import Tensor

from openood_interneg.detectors.scoring import KEPT, exact, group_log_sums, log_sum, logits
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.text_space import TextSpace

EVERY = slice(None)


class BatchLogits:
    """Logits of a batch with labels, mined negatives and the bank's rows.

    Args:
        features: (B, D) unit rows.
        space: labels and mined negatives.
        tau: temperature.
        bank: whose rows come and go.

    Attributes:
        id_logits: (B, C).
        id_lse: (B,) float64 log-sums over the labels.
        count: how many negatives there are, mined and in the bank.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        self.features, self.space, self.tau = features, space, tau
        self.id_logits = self._logits(features, space.labels)
        self.id_lse = exact(self.id_logits.logsumexp(dim=1))
        self._now(bank)

    def _logits(self, features: Tensor, texts: Tensor) -> Tensor:
        return logits(features, texts, self.space.logit_scale, self.tau)

    def _now(self, bank: NegativeBank) -> None:
        self.layout, self.size = bank.layout, len(bank)
        self.count = len(self.space.negatives) + self.size

    def admitted(self, bank: NegativeBank, rows: slice = EVERY) -> None:
        """Takes the rows that the last `offer` wrote, for some images: the others are done with."""
        raise NotImplementedError


class BatchSums(BatchLogits):
    """Log-sums over mined negatives, taken once, and over the bank's rows (G = 1), in float64.

    Attributes:
        mined: (B,) log-sums over the mined negatives.
        banked: (B,) log-sums over the bank's rows.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        super().__init__(features, space, tau, bank)
        self.mined = log_sum(features, space.negatives, space.logit_scale, tau)
        self.bank = features.new_empty(len(features), bank.capacity)
        self._recount(bank, EVERY)

    def negative_lse(self, rows: slice = EVERY) -> Tensor:
        """(b,) log-sums over all negatives; -inf for none."""
        return torch.logaddexp(self.mined[rows], self.banked[rows])

    def _recount(self, bank: NegativeBank, rows: slice) -> None:
        used = self.bank[rows, : len(bank)]
        used.copy_(self._logits(self.features[rows], bank.places))
        self._sum(used, rows)

    def _sum(self, used: Tensor, rows: slice) -> None:
        sums = exact(used.logsumexp(dim=1))
        if rows == EVERY:
            self.banked = sums
        else:
            self.banked[rows] = sums

    def admitted(self, bank: NegativeBank, rows: slice = EVERY) -> None:
        """See `BatchLogits`."""
        moved, old = bank.layout != self.layout, self.size
        self._now(bank)
        if moved:
            self._recount(bank, rows)
            return
        fresh = self._logits(self.features[rows], bank.places[bank.written])
        self.bank[rows].index_copy_(1, bank.written, fresh)
        if self.size - old < len(bank.written):  # some were replaced
            self._sum(self.bank[rows, : self.size], rows)
        else:
            new = exact(fresh.logsumexp(dim=1))
            self.banked[rows] = torch.logaddexp(self.banked[rows], new)


class BatchGroups(BatchLogits):
    """Logits of all negatives, for scores over groups of them.

    Groups are dealt anew whenever the number of negatives changes, so sums of them are of no use.
    Where a batch's logits would take too much memory they are made for some images at a time,
    whenever they are asked for.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        super().__init__(features, space, tau, bank)
        self.bank = bank
        self.at_once = images_at_once(space, bank)
        self._every = self._made(EVERY) if len(features) <= self.at_once else None

    def _made(self, rows: slice) -> Tensor:
        """(M + K, b) of mined negatives and the bank's places; those of free places undefined."""
        part, mined, bank = self.features[rows], self.space.negatives, self.bank
        every = part.new_empty(len(mined) + bank.capacity, len(part))
        for texts, at in ((mined, 0), (bank.places, len(mined))):
            torch.mm(texts, part.t(), out=every[at : at + len(texts)])
        used = every[: len(mined) + len(bank)]
        used *= self.space.logit_scale / self.tau
        return every

    def negative_lse(self, order: Tensor, groups: int, rows: slice = EVERY) -> Tensor:
        """(b, G) float64 log-sums over groups; the order is that of `group_log_sums`."""
        if self._every is not None:
            return group_log_sums(self._every[:, rows], order, groups)
        start, stop, _ = rows.indices(len(self.features))
        blocks = (slice(at, at + self.at_once) for at in range(start, stop, self.at_once))
        made = [
            group_log_sums(self._made(slice(b.start, min(b.stop, stop))), order, groups)
            for b in blocks
        ]
        return torch.cat(made)

    def admitted(self, bank: NegativeBank, rows: slice = EVERY) -> None:
        """See `BatchLogits`."""
        moved = bank.layout != self.layout
        self.bank = bank
        self._now(bank)
        if self._every is None:
            return
        columns = torch.arange(len(bank), device=self.features.device) if moved else bank.written
        fresh = self._logits(bank.places[columns], self.features[rows])
        self._every[len(self.space.negatives) + columns, rows] = fresh


def images_at_once(space: TextSpace, bank: NegativeBank) -> int:
    """Images whose logits with all negatives may be held at a time."""
    return max(KEPT // max(len(space.negatives) + bank.capacity, 1), 1)

"""Watched ID images beside a bank: what is kept of them, so that an admission costs a column."""

from __future__ import annotations

import torch
from torch import Tensor

from openood_interneg.detectors.scoring import COLUMNS, ROWS, exact, log_sum, logits
from openood_interneg.detectors.watched import LARGEST
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.text_space import TextSpace

LOST_DIGITS = 1e-6  # a difference that is smaller than this share of its terms is made anew


class BesideBank:
    """Numbers of images that go with the rows of a bank.

    Args:
        features: (n, D) unit features of the images.
        space: labels and mined negatives.
        tau: temperature.
        bank: whose rows come and go.
    """

    layout = -1  # of the bank, when the numbers were last right

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        self.features, self.scale, self.tau = features, space.logit_scale, tau

    def recount(self, bank: NegativeBank) -> None:
        """Everything of the bank anew."""
        raise NotImplementedError

    def admitted(self, bank: NegativeBank) -> None:
        """Takes the rows that the last `offer` wrote."""
        raise NotImplementedError

    def follow(self, bank: NegativeBank) -> None:
        """Rows of the bank may have moved: counts anew if they have."""
        if bank.layout != self.layout:
            self.recount(bank)

    def settle(self, bank: NegativeBank) -> None:
        """Settles the bank, whose rows move."""
        ranking, known = bank.ranking.clone(), bank.layout == self.layout
        bank.settle()
        if known:
            self._moved(ranking)
            self.layout = bank.layout

    def _moved(self, ranking: Tensor) -> None:
        """Row i of the bank is what row `ranking[i]` was."""
        raise NotImplementedError

    def _logits(self, texts: Tensor) -> Tensor:
        # In float64, so that a resumed stream, which counts anew, comes to the same thresholds.
        return logits(exact(self.features), exact(texts), self.scale, self.tau)


class WatchedGroups(BesideBank):
    """Logits of the watched images with all negatives, for scores over groups of them.

    Groups are dealt anew whenever the number of negatives changes, so sums of them are of no use.

    Attributes:
        id_lse: (n,) float64 log-sums over the labels.
        logits: (M + K, n) of mined negatives and the bank's places; free places undefined.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        super().__init__(features, space, tau, bank)
        self.id_lse = self._logits(space.labels).logsumexp(dim=1)
        self.mined = len(space.negatives)
        self.logits = features.new_empty(self.mined + bank.capacity, len(features))
        for at, part in enumerate(features.split(ROWS)):
            mine = self.logits[: self.mined, at * ROWS : (at + 1) * ROWS]
            for place, block in enumerate(space.negatives.split(COLUMNS)):
                fresh = logits(exact(block), exact(part), self.scale, tau)
                mine[place * COLUMNS : (place + 1) * COLUMNS] = fresh.to(mine)
        self.recount(bank)

    def recount(self, bank: NegativeBank) -> None:
        """See `BesideBank`."""
        self.layout = bank.layout
        used = slice(self.mined, self.mined + len(bank))
        self.logits[used] = self._logits(bank.places).t().to(self.logits)

    def admitted(self, bank: NegativeBank) -> None:
        """See `BesideBank`."""
        if bank.layout != self.layout:
            self.recount(bank)
        else:
            written = self._logits(bank.places[bank.written])
            self.logits[self.mined + bank.written] = written.t().to(self.logits)

    def _moved(self, ranking: Tensor) -> None:
        used = slice(self.mined, self.mined + len(ranking))
        self.logits[used] = self.logits[self.mined + ranking]


class WatchedBank(BesideBank):
    """Log-sums over mined negatives and bank at the watched images (G = 1), in float64.

    Per image and embedding of the bank it keeps exp(logit - shift), shift being the image's own
    largest log-sum before the stream: an admission adds one column, a replaced embedding takes
    the old one off, and neither costs more as the stream goes on.

    Attributes:
        id_lse: (n,) log-sums over the labels.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        super().__init__(features, space, tau, bank)
        self.id_lse = self._logits(space.labels).logsumexp(dim=1)
        mined = log_sum(exact(features), space.negatives, self.scale, tau)
        self.shift = torch.maximum(self.id_lse, mined)
        self.mined = (mined - self.shift).exp()
        self.terms = self.mined.new_zeros(0, len(features))  # (slots, n)
        self.recount(bank)

    @property
    def negative_lse(self) -> Tensor:
        """(n,) log-sums over all negatives; -inf for none."""
        return self.shift + (self.mined + self.total).log()

    def _sum(self) -> None:
        self.since = 0  # rows written since the sums were made
        self.total: Tensor = self.terms[: self.size].sum(dim=0)

    def recount(self, bank: NegativeBank) -> None:
        """See `BesideBank`."""
        self.layout, self.size = bank.layout, len(bank)
        self.slots = torch.arange(bank.capacity)  # of each place of the bank
        self._room(self.size)
        self.terms[: self.size] = self._terms(bank.places)
        self._sum()

    def _moved(self, ranking: Tensor) -> None:
        self.slots[: self.size] = self.slots[ranking.cpu()]  # the columns need not move

    def admitted(self, bank: NegativeBank) -> None:
        """See `BesideBank`."""
        if bank.layout != self.layout:
            self.recount(bank)
            return
        written = bank.written.cpu()
        fresh = self._terms(bank.places[bank.written])
        slots = self.slots[written]
        gone = self.terms[slots[written < self.size]].sum(dim=0)
        self._room(len(bank))
        self.terms[slots] = fresh
        self.size = len(bank)
        left = self.total - gone
        self.since += len(written)
        # What is left of a large sum is mostly rounding; what many sums leave adds up.
        lost = (left <= LOST_DIGITS * gone).any() or not torch.isfinite(left).all()
        if bool(lost) or self.since >= bank.capacity:
            self._sum()
        else:
            self.total = left + fresh.sum(dim=0)

    def _room(self, count: int) -> None:
        have = len(self.terms)
        if count > have:
            more = self.terms.new_zeros(max(count, 2 * have) - have, self.terms.shape[1])
            self.terms = torch.cat([self.terms, more])

    def _terms(self, rows: Tensor) -> Tensor:
        return (self._logits(rows) - self.shift[:, None]).exp().t()


def beside(
    bank: NegativeBank, features: Tensor, space: TextSpace, tau: float, groups: int
) -> BesideBank | None:
    """What is kept of images for scores over so many groups; None where it would be too much."""
    if groups == 1:
        return WatchedBank(features, space, tau, bank)
    if len(features) * (len(space.negatives) + bank.capacity) > LARGEST:
        return None
    return WatchedGroups(features, space, tau, bank)

"""Watched ID images beside a bank: an admitted embedding is one more column of their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from openood_interneg.detectors.scoring import logits
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.text_space import TextSpace

LOST_DIGITS = 1e-6  # a difference that is smaller than this share of its terms is made anew


class WatchedBank:
    """Log-sums over mined negatives and bank at the watched images (G = 1), in float64 on the CPU.

    Per image and embedding of the bank it keeps exp(logit - shift), shift being the image's own
    largest log-sum before the stream: an admission adds one column, a replaced embedding takes
    the old one off, and neither costs more as the stream goes on.

    Attributes:
        id_lse: (n,) log-sums over the labels.

    Args:
        features: (n, D) unit features of the watched images.
        space: labels and mined negatives.
        tau: temperature.
        bank: whose rows come and go.
    """

    def __init__(self, features: Tensor, space: TextSpace, tau: float, bank: NegativeBank):
        self.features, self.scale, self.tau = features, space.logit_scale, tau
        self.id_lse = self._logits(space.labels).logsumexp(dim=1)
        mined = self._logits(space.negatives).logsumexp(dim=1)
        self.shift = torch.maximum(self.id_lse, mined)
        self.mined = (mined - self.shift).exp()
        self.terms = self.mined.new_zeros(0, len(features))  # (slots, n)
        self.recount(bank)

    @property
    def negative_lse(self) -> Tensor:
        """(n,) log-sums over all negatives; -inf for none."""
        return self.shift + (self.mined + self.total).log()

    def recount(self, bank: NegativeBank) -> None:
        """Everything of the bank anew."""
        self.layout, self.size = bank.layout, len(bank)
        self.slots = torch.arange(bank.capacity)  # of each place of the bank
        self._room(self.size)
        self.terms[: self.size] = self._terms(bank.places)
        self.total = self.terms[: self.size].sum(dim=0)

    def follow(self, bank: NegativeBank) -> None:
        """Rows of the bank may have moved: counts anew if they have."""
        if bank.layout != self.layout:
            self.recount(bank)

    def settle(self, bank: NegativeBank) -> None:
        """Settles the bank; its rows move, and the columns need not."""
        ranking, known = bank.ranking.cpu().clone(), bank.layout == self.layout
        bank.settle()
        if known:
            self.slots[: self.size] = self.slots[ranking]
            self.layout = bank.layout

    def admitted(self, bank: NegativeBank) -> None:
        """Takes the rows that the last `offer` wrote."""
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
        if bool((left <= LOST_DIGITS * gone).any()) or not bool(torch.isfinite(left).all()):
            self.total = self.terms[: self.size].sum(dim=0)  # what was left is mostly rounding
        else:
            self.total = left + fresh.sum(dim=0)

    def _room(self, count: int) -> None:
        have = len(self.terms)
        if count > have:
            more = self.terms.new_zeros(max(count, 2 * have) - have, self.terms.shape[1])
            self.terms = torch.cat([self.terms, more])

    def _terms(self, rows: Tensor) -> Tensor:
        return (self._logits(rows) - self.shift[:, None]).exp().t()

    def _logits(self, texts: Tensor) -> Tensor:
        return logits(self.features, texts, self.scale, self.tau).cpu().double()

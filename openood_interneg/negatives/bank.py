"""The bank: the K extra negatives with the largest deviation degree (Section 4.2.2, step 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class NegativeBank:
    """At most K embeddings, best first.

    Keeping the top K of a union is associative, so what is evicted early would be evicted late:
    the content depends on everything offered, not on how it was cut into batches. On equal
    deviation the embedding offered first stays.

    A newcomer takes a free place or that of the row it evicts, and `ranking` says which place
    holds the best row, the second best and so on: an admission writes one row. `settle` brings
    the rows themselves into that order.

    Attributes:
        written: (m,) places that the last `offer` wrote.
        settled: whether they are.
        layout: grows whenever rows move other than by an `offer`.

    Args:
        capacity: K; 0 makes a bank that admits nothing.
        dim: D.
        device: where the embeddings live.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        device: str | torch.device = "cpu",
    ):
        self.capacity = capacity
        self.layout = 0
        self._places = torch.zeros(capacity, dim, device=device)
        self._deviation = torch.zeros(capacity, device=device)
        self._ids = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._ranking = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.reset()

    def reset(self) -> None:
        """Empties the bank and its counters."""
        self.size = 0
        self.offered = 0  # embeddings that met the criterion, admitted for a while or not
        self.written = self._ranking[:0]
        self._moved()

    def _moved(self) -> None:
        self._ranking[: self.size] = torch.arange(self.size, device=self._ranking.device)
        self.settled = True
        self.layout += 1

    def settle(self) -> None:
        """Brings the rows into the order of `ranking`, best first."""
        if not self.settled:
            self._places[: self.size] = self.features
            self._moved()

    @staticmethod
    def holding(rows: Tensor) -> NegativeBank:
        """A full bank of these rows (n, D) in this order; they are not copied."""
        bank = NegativeBank(len(rows), rows.shape[1], rows.device)
        bank._places, bank.size = rows, len(rows)
        bank._moved()
        return bank

    def __len__(self) -> int:
        return self.size

    @property
    def places(self) -> Tensor:
        """(n, D) the rows where they lie, in no order; a view."""
        return self._places[: self.size]

    @property
    def ranking(self) -> Tensor:
        """(n,) int64 places of the rows, best first."""
        return self._ranking[: self.size]

    @property
    def features(self) -> Tensor:
        """(n, D) float32 unit rows, best first; valid until the next `offer`."""
        return self.places if self.settled else self.places[self.ranking]

    @property
    def deviation(self) -> Tensor:
        """(n,) deviation degree of each row, descending."""
        return self._deviation[: self.size]

    @property
    def ids(self) -> Tensor:
        """(n,) id of the image each row was inverted from, best first."""
        return self._ids[: self.size]

    def offer(self, features: Tensor, deviation: Tensor, ids: Tensor) -> bool:
        """Merges embeddings into the top K.

        Args:
            features: (n, D) unit rows that met the criterion.
            deviation: (n,) deviation degree of each.
            ids: (n,) int64 ids of the images that they were inverted from.

        Returns:
            Whether the content changed; `written` says where.
        """
        self.offered += len(features)
        self.written = self._ranking[:0]
        old = self.size
        if self.capacity == 0 or len(features) == 0:
            return False
        everything = torch.cat([self.deviation, deviation])
        order = everything.argsort(descending=True, stable=True)[: self.capacity]
        fresh = order >= old
        newcomers = order[fresh] - old
        if len(newcomers) == 0:
            return False
        stay = order[~fresh]
        evicted = torch.ones(old, dtype=torch.bool, device=order.device)
        evicted[stay] = False
        added = torch.arange(old, len(order), device=order.device)
        free = torch.cat([self.ranking[evicted], added])
        ranking = torch.empty_like(order)
        ranking[~fresh] = self.ranking[stay]
        ranking[fresh] = free
        self._places[free] = features[newcomers]
        every_id = torch.cat([self.ids, ids.to(self._ids.device)])
        self.size = len(order)
        self._ranking[: self.size] = ranking
        self._deviation[: self.size] = everything[order]
        self._ids[: self.size] = every_id[order]
        self.settled = False
        self.written = free
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything that the bank remembers."""
        return {
            "features": self.features.clone(),
            "deviation": self.deviation.clone(),
            "keys": self.ids.clone(),
            "offered": torch.tensor(self.offered),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict`.

        Raises:
            ValueError: another feature size, or more rows than this bank's capacity.
        """
        features = state["features"]
        if features.shape[1] != self._places.shape[1]:
            raise ValueError(
                f"the stored bank has embeddings of size {features.shape[1]}, this model's are "
                f"{self._places.shape[1]}"
            )
        if len(features) > self.capacity:
            raise ValueError(
                f"the stored bank holds {len(features)} embeddings, bank_capacity is "
                f"{self.capacity}"
            )
        self.size = len(features)
        self._places[: self.size] = features
        self._deviation[: self.size] = state["deviation"]
        self._ids[: self.size] = state["keys"]
        self.offered = int(state["offered"])
        self._moved()

"""TINS's bank: what falls out of the top K waits in a buffer, half of which may come back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.negatives.bank import NegativeBank


class OverflowBank(NegativeBank):
    """A `NegativeBank` whose overflow is kept, and mixed in again when there is enough of it.

    An `offer` keeps the K largest of bank and newcomers; the rest goes to the buffer. When the
    buffer holds B rows, its better half is pooled with the bank, K rows of the pool are drawn
    without replacement and become the bank in the order drawn, and the buffer is emptied. Until
    the next `offer` sorts it again, such a bank is not best first.

    Args:
        capacity: K. dim: D. buffer_capacity: B; 0 drops the overflow, as InterNeg does.
        seed: of the draws; each depends on (seed, number of draws before it) alone.
        device: where the rows live.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        buffer_capacity: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        self.buffer_capacity, self.seed = buffer_capacity, seed
        self._empty = torch.zeros(0, dim, device=device)
        super().__init__(capacity, dim, device)

    def reset(self) -> None:
        """Empties bank and buffer."""
        super().reset()
        self.buffer = self._empty
        self.buffer_deviation = self._empty[:, 0]
        self.buffer_ids = torch.zeros(0, dtype=torch.int64, device=self._empty.device)
        self.drawn = 0

    def permutation(self, count: int) -> Tensor:
        """The order in which a pool of `count` rows is drawn, int64 on the CPU."""
        generator = torch.Generator().manual_seed((self.seed << 20) + self.drawn)
        return torch.randperm(count, generator=generator)

    def offer(self, features: Tensor, deviation: Tensor, ids: Tensor) -> bool:
        """Merges embeddings into the top K; see the class. Arguments as `NegativeBank.offer`."""
        ids = ids.to(self._ids.device)
        resorted = self._sort() if len(features) else False
        if self.buffer_capacity and len(features) and len(self) + len(features) > self.capacity:
            rows = torch.cat([self.features, features])
            scores = torch.cat([self.deviation, deviation])
            order = scores.argsort(descending=True, stable=True)[self.capacity :]
            self.buffer = torch.cat([self.buffer, rows[order]])
            self.buffer_deviation = torch.cat([self.buffer_deviation, scores[order]])
            self.buffer_ids = torch.cat([self.buffer_ids, torch.cat([self.ids, ids])[order]])
        changed = super().offer(features, deviation, ids) or resorted
        if self.buffer_capacity and len(self.buffer) >= self.buffer_capacity:
            self._draw()
            return True
        return changed

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of bank and buffer."""
        return super().state_dict() | {
            "buffer": self.buffer.clone(),
            "buffer_deviation": self.buffer_deviation.clone(),
            "buffer_ids": self.buffer_ids.clone(),
            "drawn": torch.tensor(self.drawn),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict`; KeyError or ValueError where it does not fit."""
        buffer = state["buffer"]
        if buffer.dim() != 2 or buffer.shape[1] != self._empty.shape[1]:
            raise ValueError(f"the stored buffer has shape {tuple(buffer.shape)}")
        for name in ("buffer_deviation", "buffer_ids"):
            if state[name].shape != buffer.shape[:1]:
                raise ValueError(f"bank.{name} has {len(state[name])} values, not {len(buffer)}")
        super().load_state_dict(state)
        device = self._empty.device
        self.buffer = buffer.to(device).clone()
        self.buffer_deviation = state["buffer_deviation"].to(device).clone()
        self.buffer_ids = state["buffer_ids"].to(device).clone()
        self.drawn = int(state["drawn"])

    def _sort(self) -> bool:
        """Best first again, after a draw; whether anything moved."""
        order = self.deviation.argsort(descending=True, stable=True)
        if bool((order[1:] > order[:-1]).all()):
            return False
        self._replace(self.features[order], self.deviation[order], self.ids[order])
        return True

    def _replace(self, rows: Tensor, deviation: Tensor, ids: Tensor) -> None:
        self.size = len(rows)
        self._places[: self.size] = rows
        self._deviation[: self.size] = deviation
        self._ids[: self.size] = ids
        self._moved()

    def _draw(self) -> None:
        """The bank anew, out of itself and the better half of the buffer."""
        half = self.buffer_deviation.argsort(descending=True, stable=True)[: len(self.buffer) // 2]
        rows = torch.cat([self.features, self.buffer[half]])
        scores = torch.cat([self.deviation, self.buffer_deviation[half]])
        ids = torch.cat([self.ids, self.buffer_ids[half]])
        chosen = self.permutation(len(rows))[: self.capacity].to(rows.device)
        self._replace(rows[chosen], scores[chosen], ids[chosen])
        self.drawn += 1
        self.buffer, self.buffer_deviation = self._empty, self._empty[:, 0]
        self.buffer_ids = self.buffer_ids[:0]

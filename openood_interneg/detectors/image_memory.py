"""RatioNeg's memory: the last K images that were likely OOD, with their weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.scoring import exact

LOST_DIGITS = 1e-6  # a difference that is smaller than this share of its terms is made anew


class ImageMemory:
    """A ring of at most K unit rows with weights, and their density at the probes.

    Attributes:
        rows: (K, D) float32 on the shots' device; places in use are `order`.
        weights: (K,) float64, 0 for free places. mass: their sum.
        order: places in use, oldest first.
        probes: (n + w, D) the shots and the watched images, where the memory's density is kept.
        evidence: (n + w,) float64, sum over rows of w_m exp(k (cos(probe, m) - 1)).

    Args:
        capacity: K. shots: (n, D) unit image features. concentration: k.
        refresh: rows fade by 1/K per image of the stream, and regain weight by explaining it.
    """

    def __init__(self, capacity: int, shots: Tensor, concentration: float, *, refresh: bool):
        self.capacity, self.shots, self.concentration = capacity, shots, concentration
        self.probes = shots
        self.refresh = refresh
        self.rows = torch.zeros(capacity, shots.shape[1], device=shots.device)
        self.reset()

    def reset(self) -> None:
        """Empties it."""
        self.weights = np.zeros(self.capacity)
        self.pending = np.zeros(self.capacity)
        self.ids = np.zeros(self.capacity, dtype=np.int64)
        self.order: deque[int] = deque()
        self.mass = 0.0
        self.evidence = np.zeros(len(self.probes))
        self.remembered = 0

    def __len__(self) -> int:
        return len(self.order)

    def kernel(self, features: Tensor, rows: Tensor, *, in_float64: bool = False) -> np.ndarray:
        """exp(k (cos - 1)) of (B, D) and (m, D), (B, m) float64 on the CPU.

        Args:
            features: (B, D).
            rows: (m, D).
            in_float64: take the cosines so, too: what a resumed stream sums anew is then what the
                unbroken one has summed.
        """
        if in_float64:
            features, rows = exact(features), exact(rows)
        # Not in float32: a large k takes far rows below its smallest number, and 0 has no log.
        cosine = (features @ rows.t()).cpu().double().numpy()
        return np.exp(self.concentration * (cosine - 1))

    def watch(self, features: Tensor | None) -> None:
        """Keeps the density at these images (w, D), too; None: at the shots alone."""
        self.probes = self.shots if features is None else torch.cat([self.shots, features])
        self._watch_anew()

    def _watch_anew(self) -> None:
        count = len(self.shots)
        kernel = self.kernel(self.probes[count:], self.rows, in_float64=True)
        self.evidence = np.concatenate([self.evidence[:count], kernel @ self.weights])

    def at_probes(self, rows: Tensor, at_shots: np.ndarray | None = None) -> np.ndarray:
        """Kernels (B, n + w) of rows (B, D) at the probes.

        Args:
            rows: (B, D).
            at_shots: (B, n), the part that the shots have in it, where it is there already.
        """
        count = len(self.shots)
        own = self.kernel(rows, self.shots) if at_shots is None else at_shots
        if len(self.probes) == count:
            return own
        watched = self.kernel(rows, self.probes[count:], in_float64=True)
        return np.concatenate([own, watched], axis=1)

    def sums(self, features: Tensor) -> np.ndarray:
        """Weighted kernel sums (B,) float64 of the memory at features (B, D)."""
        return self.kernel(features, self.rows) @ self.weights

    def batch(self, features: Tensor, rows: Tensor, at_probes: np.ndarray, ids: Tensor) -> _Batch:
        """A batch of the stream that is about to be walked through."""
        return _Batch(self, features, rows, at_probes, ids)

    def state_dict(self) -> dict[str, Tensor]:
        """Rows, weights and ids, oldest first, and the sums."""
        places = np.fromiter(self.order, dtype=np.int64, count=len(self.order))
        return {
            "rows": self.rows[torch.from_numpy(places).to(self.rows.device)].clone(),
            "weights": torch.from_numpy(self.weights[places]),
            "pending": torch.from_numpy(self.pending[places]),
            "ids": torch.from_numpy(self.ids[places]),
            "shot_evidence": torch.from_numpy(self.evidence[: len(self.shots)].copy()),
            "mass": torch.tensor(self.mass, dtype=torch.float64),
            "remembered": torch.tensor(self.remembered),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict`; KeyError or ValueError where it does not fit."""
        rows, weights = state["rows"], state["weights"].double()
        count = len(rows)
        if rows.shape != (count, self.rows.shape[1]) or count > self.capacity:
            raise ValueError(
                f"the stored memory has shape {tuple(rows.shape)}; this one holds at most "
                f"{self.capacity} rows of {self.rows.shape[1]}"
            )
        for name in ("weights", "pending", "ids"):
            if state[name].shape != (count,):
                raise ValueError(f"memory.{name} has {len(state[name])} values for {count} rows")
        if state["shot_evidence"].shape != (len(self.shots),):
            raise ValueError("the stored memory was made with another number of ID images")
        numbers = (rows, weights, state["pending"], state["shot_evidence"], state["mass"])
        if not all(bool(torch.isfinite(part).all()) for part in numbers) or (weights < 0).any():
            raise ValueError("the stored memory contains NaN, infinity or negative weights")
        self.reset()
        self.rows[:count] = rows.to(self.rows.device)
        self.weights[:count] = weights.numpy()
        self.pending[:count] = state["pending"].double().numpy()
        self.ids[:count] = state["ids"].numpy()
        self.order.extend(range(count))
        self.evidence = state["shot_evidence"].double().numpy().copy()
        self._watch_anew()
        self.mass = float(state["mass"])
        self.remembered = int(state["remembered"])


class _Batch:
    """B images on their way past the memory; kernels are made once, as matrix products.

    Rows are numbered 0..K-1 (places of the memory before the batch) and K..K+B-1 (the batch's).
    """

    def __init__(
        self,
        memory: ImageMemory,
        features: Tensor,
        rows: Tensor,
        at_probes: np.ndarray,
        ids: Tensor,
    ):
        self.memory, self.rows, self.at_probes, self.ids = memory, rows, at_probes, ids
        capacity, size = memory.capacity, len(features)
        self.kernels = np.concatenate(
            [memory.kernel(features, memory.rows), memory.kernel(features, rows)], axis=1
        )  # (B, K + B)
        self.weights = np.concatenate([memory.weights, np.zeros(size)])
        self.pending = np.concatenate([memory.pending, np.zeros(size)])
        self.order = deque(memory.order)
        self._falling: np.ndarray | None = None
        self._oldest = {place: i for i, place in enumerate(memory.order)}
        self.capacity = capacity

    def evidence(self, i: int) -> float:
        """Weighted kernel sum of the memory, as it is, at image i."""
        return float(self.kernels[i] @ self.weights)

    def fade(self) -> bool:
        """Every image of the stream takes 1/K off all weights, where rows are refreshed."""
        memory = self.memory
        if not memory.refresh or not self.order:
            return False
        left = 1 - 1 / memory.capacity
        self.weights *= left
        memory.evidence *= left
        memory.mass *= left
        return True

    def remember(self, i: int, weight: float, prior: float) -> None:
        """Adds image i; the oldest row falls out of a full memory.

        Args:
            prior: n0 p_ID of the image.
        """
        memory = self.memory
        if memory.refresh:
            z = self.kernels[i] * self.weights
            self.pending += weight * z / (prior + z.sum())
        if len(self.order) == memory.capacity:
            self._drop(self.order.popleft())
        row = memory.capacity + i
        self.order.append(row)
        self.weights[row] = weight
        memory.mass += weight
        memory.evidence += weight * self.at_probes[i]
        memory.remembered += 1
        if memory.remembered % memory.capacity == 0:
            self._recount()

    def settle(self) -> bool:
        """Refreshed weights take effect."""
        memory = self.memory
        used = self.pending.nonzero()[0]
        if not len(used):
            return False
        self.weights[used] += self.pending[used]
        memory.mass += float(self.pending[used].sum())
        memory.evidence += self.pending[used] @ self._at_probes(used)
        self.pending[used] = 0
        return True

    def evidence_of_others(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel sums (B,) of the memory after the batch without an image's own row, and masses."""
        own = np.arange(len(self.at_probes))
        # Left out, not taken off: an image's kernel with itself can dwarf all others.
        self.kernels[own, self.capacity + own] = 0
        mass = np.maximum(self.memory.mass - self.weights[self.capacity :], 0.0)
        return self.kernels @ self.weights, mass

    def close(self) -> None:
        """Writes the batch's rows into the memory."""
        memory, capacity = self.memory, self.capacity
        kept = [row for row in self.order if row < capacity]
        free = iter(sorted(set(range(capacity)) - set(kept)))
        fresh = [row - capacity for row in self.order if row >= capacity]
        places = [next(free) for _ in fresh]
        weights, pending = np.zeros(capacity), np.zeros(capacity)
        weights[kept], pending[kept] = self.weights[kept], self.pending[kept]
        if fresh:
            at = [capacity + i for i in fresh]
            weights[places], pending[places] = self.weights[at], self.pending[at]
            source = torch.tensor(fresh, device=self.rows.device)
            memory.rows[torch.tensor(places, device=memory.rows.device)] = self.rows[source]
            memory.ids[places] = self.ids.cpu().numpy()[fresh]
        memory.weights, memory.pending = weights, pending
        memory.order = deque(kept + places)

    def _drop(self, row: int) -> None:
        memory, weight = self.memory, self.weights[row]
        self.weights[row] = self.pending[row] = 0
        left = memory.evidence - weight * self._at_probes(np.array([row]))[0]
        if (left < LOST_DIGITS * memory.evidence).any():
            self._recount()  # what is left is mostly rounding
        else:
            memory.evidence = left
            memory.mass = max(memory.mass - weight, 0.0)

    def _at_probes(self, rows: np.ndarray) -> np.ndarray:
        """Kernels (m, n + w) of rows with the probes."""
        memory, new = self.memory, rows >= self.capacity
        out = np.empty((len(rows), len(memory.probes)))
        out[new] = self.at_probes[rows[new] - self.capacity]
        if not new.all():
            if self._falling is None:
                # The rows that can fall out in this batch, all with one product.
                oldest = list(memory.order)
                if not memory.refresh:
                    oldest = oldest[: len(self.at_probes)]
                self._oldest = {place: i for i, place in enumerate(oldest)}
                at = torch.tensor(oldest, device=memory.rows.device)
                self._falling = memory.at_probes(memory.rows[at])
            out[~new] = self._falling[[self._oldest[row] for row in rows[~new].tolist()]]
        return out

    def _recount(self) -> None:
        """Sums anew, so that rounding does not build up over a long stream."""
        memory = self.memory
        used = np.fromiter(self.order, dtype=np.int64, count=len(self.order))
        old, new = used[used < self.capacity], used[used >= self.capacity]
        evidence = self.weights[new] @ self.at_probes[new - self.capacity]
        if len(old):
            at = torch.from_numpy(old).to(memory.rows.device)
            evidence = evidence + self.weights[old] @ memory.at_probes(memory.rows[at])
        memory.evidence = evidence
        memory.mass = float(self.weights[used].sum())

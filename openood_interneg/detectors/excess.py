"""How many more small p-values a stream has than ID images would give: the share that is OOD."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

BINS = 100
FIT_EACH_OF_FIRST = 100  # p-values after each of which the density is fitted
FIT_EVERY = 10  # afterwards
BAND_ODDS = 0.5  # alpha of the DKW band: even odds


def decreasing_fit(values: np.ndarray) -> np.ndarray:
    """The non-increasing values (n,) nearest to given ones in least squares.

    Pools adjacent violators (Ayer et al., 1955). `scipy.optimize.isotonic_regression` gives the
    same numbers, and takes half a second to import where a program scores a few images.
    """
    totals: list[float] = []  # of blocks, whose means fall
    sizes: list[int] = []
    for value in values.tolist():
        total, size = value, 1
        while totals and totals[-1] * size <= total * sizes[-1]:
            total += totals.pop()
            size += sizes.pop()
        totals.append(total)
        sizes.append(size)
    return np.repeat(np.array(totals) / np.array(sizes), sizes)


class ExcessDensity:
    r"""Density f of a stream's p-values, and the local false-discovery weight 1 - 1/f.

    p-values of ID images are uniform, so what f exceeds 1 by is OOD. f is Grenander's estimate:
    the slopes of the least concave majorant of the distribution function of a histogram of
    `BINS` bins, which starts as `prior` uniform p-values and forgets 1/`capacity` of what it has
    counted at every new one.

    Args:
        prior: n0, weight of the uniform start. capacity: K, about how many p-values it remembers.
        shots: n, how many scores the p-values were taken among.
        band: count only the excess that a DKW band at even odds cannot explain by chance,
            F'(t) = max(t, F(t) - eps), eps = sqrt(log(2/alpha)/2 (1/n + 1/seen)).
    """

    def __init__(self, prior: float, capacity: int, shots: int, *, band: bool = False):
        self.prior, self.capacity, self.shots, self.band = prior, capacity, shots, band
        self.reset()

    def reset(self) -> None:
        """Forgets the stream."""
        self.counts = np.zeros(BINS)
        self.number = 0
        self.density = np.ones(BINS)

    def weight(self, p: float) -> float:
        """Counts a p-value in (0, 1]; how likely its image is OOD, in [0, 1)."""
        place = min(max(int(np.ceil(p * BINS)) - 1, 0), BINS - 1)
        self.counts *= 1 - 1 / self.capacity
        self.counts[place] += 1
        if self.number < FIT_EACH_OF_FIRST or self.number % FIT_EVERY == 0:
            self._fit()
        self.number += 1
        return max(0.0, 1 - 1 / max(self.density[place], 1e-300))

    @property
    def just_fitted(self) -> bool:
        """Whether the last p-value came at a fit of the steady rhythm (every `FIT_EVERY`-th)."""
        return (self.number - 1) % FIT_EVERY == 0

    def state_dict(self) -> dict[str, Tensor]:
        """Histogram, density and number of p-values."""
        return {
            "counts": torch.from_numpy(self.counts.copy()),
            "density": torch.from_numpy(self.density.copy()),
            "number": torch.tensor(self.number),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues; KeyError or ValueError for a state that is not this one's."""
        counts, density = state["counts"], state["density"]
        for name, tensor in (("counts", counts), ("density", density)):
            good = tensor.shape == (BINS,) and bool(torch.isfinite(tensor).all())
            if not good or bool((tensor < 0).any()):
                raise ValueError(f"excess.{name} is not {BINS} finite numbers from 0 up")
        if int(state["number"]) < 0:
            raise ValueError("excess.number is negative")
        self.counts = counts.double().numpy().copy()
        self.density = density.double().numpy().copy()
        self.number = int(state["number"])

    def _fit(self) -> None:
        histogram = self.counts + self.prior / BINS
        below = np.cumsum(histogram) / histogram.sum()  # F at 1/BINS, ..., 1
        if self.band:
            seen = max(self.counts.sum(), 1.0)
            eps = np.sqrt(np.log(2 / BAND_ODDS) / 2 * (1 / self.shots + 1 / seen))
            below = np.maximum(np.arange(1, BINS + 1) / BINS, below - eps)
        slopes = np.diff(below, prepend=0.0) * BINS
        # Slopes of the least concave majorant = decreasing regression of the slopes.
        self.density = decreasing_fit(slopes)

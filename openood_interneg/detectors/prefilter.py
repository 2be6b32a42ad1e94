"""Which gated images cannot enter the bank, learned from the first inversions of a stream.

An inversion costs far more than anything else, and most inversions are not admissible (Eq. 9).
An image that is close to an image proxy has an inversion that is close to it, too: how close h
comes to the proxies says beforehand whether there is any point in inverting it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.detectors.scoring import exact

LEARNED_FROM = 256  # inversions
QUANTILE = 0.99  # of the admissible ones' similarities
FEWEST = 8  # admissible ones from which a limit is learned


class Prefilter:
    """Lets an image pass if max_i cos(h, p_i) is at most a limit that the stream has taught.

    The first 256 gated images of a stream all pass. The limit is the 99 % quantile of the
    similarities of those whose inversions were admissible. Where fewer than 8 were, every image
    passes for the rest of the stream.

    Args:
        proxies: (C, D) unit rows.
    """

    def __init__(self, proxies: Tensor):
        self.proxies = exact(proxies)
        self.reset()

    def reset(self) -> None:
        """Forgets what was learned."""
        self.looked = 0  # how many of the first inversions are known
        self.admissible: list[float] = []  # similarities of the admissible ones
        self.limit = float("inf")

    @property
    def room(self) -> int:
        """How many inversions it still learns from."""
        return LEARNED_FROM - self.looked

    def similarity(self, features: Tensor) -> Tensor:
        """max_i cos(h, p_i) of unit rows (n, D): (n,) float32, on the CPU.

        It is taken in float64, so that it does not depend on which images come together.
        """
        return (exact(features) @ self.proxies.t()).amax(dim=1).float().cpu()

    def passes(self, similarity: Tensor) -> Tensor:
        """(n,) bool: whether images of these similarities (n,) are to be inverted."""
        return similarity <= self.limit

    def learn(self, similarity: Tensor, admissible: Tensor) -> None:
        """Takes the next inversions of the stream; after the first 256 nothing changes.

        Args:
            similarity: (n,) of their images; n at most `room` while there is any.
            admissible: (n,) bool, whether their inversions fulfil Eq. 9.
        """
        if not self.room:
            return
        self.looked += len(similarity)
        self.admissible += similarity[admissible.to(similarity.device)].tolist()
        if self.room:
            return
        self._settle()
        if self.limit == float("inf"):
            warnings.warn(
                f"prefilter: of the first {LEARNED_FROM} inversions of the stream "
                f"{len(self.admissible)} could enter the bank, too few to learn from (it takes "
                f"{FEWEST}); every gated image is inverted",
                stacklevel=2,
            )

    def _settle(self) -> None:
        if self.room or len(self.admissible) < FEWEST:
            self.limit = float("inf")
        else:  # a similarity that was seen: of up to 100 the largest
            known = torch.tensor(self.admissible, dtype=torch.float64)
            self.limit = float(known.quantile(QUANTILE, interpolation="higher"))

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned: `looked` (), and the `admissible` ones' similarities (a,) float32."""
        return {
            "looked": torch.tensor(self.looked),
            "admissible": torch.tensor(self.admissible, dtype=torch.float32),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict`.

        Raises:
            KeyError: an entry is missing.
            ValueError: more inversions than it learns from, or more admissible than looked at.
        """
        looked, admissible = int(state["looked"]), state["admissible"].float().cpu()
        if not len(admissible) <= looked <= LEARNED_FROM:
            raise ValueError(
                f"the stored pre-filter has {len(admissible)} admissible of {looked} inversions; "
                f"it learns from {LEARNED_FROM}"
            )
        self.looked, self.admissible = looked, admissible.tolist()
        self._settle()

"""InterNeg for untrusted streams: protections of the bank, all off by default.

With every protection off this is InterNeg, bit for bit. What each of them does against which
stream, and what it costs, is measured by benchmarks/hostile.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.detectors.base import DetectorError, Scores
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import LARGEST, InterNegSettings, Settings, setting


@dataclass(frozen=True)
class ProtectionSettings(Settings):
    """Limits on what a stream may do to the bank. The defaults are the paper's: no limit."""

    admissions: int = setting(
        0,
        "at most this many offers to the bank per 100 images of the stream; 0: no limit",
        low=0,
        high=LARGEST,
    )
    diversity: float = setting(
        1.0,
        "an inversion whose cosine with an entry of the bank is at least this is not offered; "
        "1: no limit",
        low=0.0,
        high=1.0,
    )
    max_age: int = setting(
        0,
        "an entry leaves the bank after this many images of the stream; 0: never",
        low=0,
        high=LARGEST,
    )
    id_guard: float = setting(
        1.0,
        "an inversion is not admitted where it brings more than this share of the calibration "
        "images below gamma; 1: no guard",
        low=0.0,
        high=1.0,
    )

    @property
    def of_bank(self) -> bool:
        """Whether one of them is on."""
        return self != ProtectionSettings()


WINDOW = 100  # images over which admissions are counted
GUARD_IMAGES = 256  # of the watched images, those that id_guard looks at for every offer

Alarm = Callable[[Tensor], float]  # bank features (n, D) -> share of ID images below gamma


class ProtectedBank(NegativeBank):
    """A bank that looks at what it is offered; `now` is the number of images seen so far."""

    def __init__(self, protections: ProtectionSettings, alarm: Alarm, bank: NegativeBank):
        self.protections, self.alarm = protections, alarm
        super().__init__(bank.capacity, bank.features.shape[1], bank.features.device)

    def reset(self) -> None:
        """Empties the bank and forgets all ages."""
        super().reset()
        self.now = 0
        self.born: dict[int, int] = {}  # image -> when an inversion of it was last offered
        self.recent: deque[int] = deque()  # when the last ones were offered
        self.refused = 0

    def offer(self, features: Tensor, deviation: Tensor, ids: Tensor) -> bool:
        """As the plain bank's, for what the protections let through."""
        protections = self.protections
        chosen = self._allowed(features, deviation)
        self.refused += len(features) - len(chosen)
        if not chosen:
            return False
        before = super().state_dict() if protections.id_guard < 1 else {}
        at = torch.tensor(chosen)
        changed = super().offer(
            features[at.to(features.device)],
            deviation[at.to(deviation.device)],
            ids[at.to(ids.device)],
        )
        if changed and protections.id_guard < 1:
            alarm = self.alarm(self.features)
            # A rate that is too high already must not block what does not raise it further.
            if alarm > protections.id_guard and alarm > self.alarm(before["features"]):
                super().load_state_dict(before)
                self.refused += len(chosen)
                return False
        if protections.admissions:
            self.recent.extend([self.now] * len(chosen))
        self.born |= {int(i): self.now for i in ids[at.to(ids.device)]}
        if len(self.born) > 2 * self.capacity:  # memory must not grow with the stream
            self._forget_ages()
        return changed

    def _allowed(self, features: Tensor, deviation: Tensor) -> list[int]:
        """Rows that may be offered, the most deviating first."""
        protections = self.protections
        room = len(features)
        if protections.admissions:
            while self.recent and self.recent[0] <= self.now - WINDOW:
                self.recent.popleft()
            room = max(protections.admissions - len(self.recent), 0)
        order = deviation.argsort(descending=True, stable=True).tolist()
        if protections.diversity >= 1:
            return order[:room]
        to_bank = (features @ self.features.t() >= protections.diversity).any(dim=1)
        one_another = features @ features.t() >= protections.diversity
        chosen: list[int] = []
        for i in order:
            if len(chosen) == room:
                break
            if not bool(to_bank[i]) and not bool(one_another[i, chosen].any()):
                chosen.append(i)
        return chosen

    def expire(self) -> bool:
        """Drops entries older than `max_age`; whether there were any."""
        limit = self.protections.max_age
        if not limit or not self.size:
            return False
        ages = torch.tensor([self.now - self.born.get(int(i), 0) for i in self.ids])
        if not bool((ages >= limit).any()):
            return False
        stay = (ages < limit).nonzero()[:, 0].to(self.features.device)
        state = super().state_dict()
        kept = {name: state[name][stay] for name in ("features", "deviation", "keys")}
        super().load_state_dict(state | kept)
        self._forget_ages()
        return True

    def _forget_ages(self) -> None:
        """Drops the ages of images that no entry is of."""
        held = set(self.ids.tolist())
        self.born = {i: when for i, when in self.born.items() if i in held}

    def state_dict(self) -> dict[str, Tensor]:
        """The plain bank's, the age of each entry and when the last ones were offered."""
        born = [self.born.get(int(i), 0) for i in self.ids]
        return super().state_dict() | {
            "born": torch.tensor(born, dtype=torch.int64),
            "recent": torch.tensor(list(self.recent), dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state_dict`; ages start now where it has none."""
        super().load_state_dict(state)
        born = state["born"].tolist() if "born" in state else [self.now] * self.size
        self.born = dict(zip(self.ids.tolist(), born, strict=True))
        self.recent = deque(state["recent"].tolist() if "recent" in state else ())


class ProtectedInterNeg(InterNeg):
    """InterNeg and, where asked for, a protected bank.

    Args:
        settings: as for InterNeg.
        inverter: as for InterNeg.
        protections: limits; the default has none.
    """

    def __init__(
        self,
        settings: InterNegSettings | None = None,
        inverter: Inverter | None = None,
        protections: ProtectionSettings | None = None,
    ):
        super().__init__(settings, inverter)
        self.protections = protections or ProtectionSettings()
        self.guard: tuple[Tensor, float] | None = None  # features of ID images, gamma

    def _fit(self, space: TextSpace) -> None:
        super()._fit(space)
        self.guard = None
        if self.protections.of_bank:
            self.bank = self._protected = ProtectedBank(self.protections, self._alarm, self.bank)

    def _watch_begins(self) -> None:
        super()._watch_begins()
        # The guard's gamma stays: one that went with the bank would let everything in.
        watched = self._watched
        self.guard = None if watched is None else (watched.features, self.threshold)

    def step(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """Scores the next batch; see `Detector.step`.

        Raises:
            DetectorError: as there, or the guard is on and has nothing to watch.
        """
        if not self.protections.of_bank or not self.fitted:
            return super().step(features, ids)
        if self.protections.id_guard < 1 and self.guard is None:
            raise DetectorError("id_guard needs ID images to watch; calibrate first")
        if self.settings.update == "batch" or len(features) < 2:
            return self._timed(features, ids)
        # One image at a time, so that limits and ages do not depend on how the stream is cut.
        if not bool(torch.isfinite(features).all()):
            raise DetectorError("a feature of the batch contains NaN or infinity")
        rows = [
            self._timed(features[i : i + 1], None if ids is None else ids[i : i + 1])
            for i in range(len(features))
        ]
        return Scores.joined(rows)

    def _timed(self, features: Tensor, ids: Tensor | None) -> Scores:
        self._protected.now = self.seen
        if self._protected.expire():
            self.load_state_dict(self.state_dict())  # rows have moved
        layout = self.bank.layout
        said = super().step(features, ids)
        if self.bank.layout != layout:  # an offer that the guard took back
            self._bank_changed()
        return said

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream; see `InterNeg.load_state_dict`."""
        if self.protections.of_bank and "seen" in state:
            self._protected.now = int(state["seen"])
        super().load_state_dict(state)

    def _alarm(self, bank: Tensor) -> float:
        assert self.guard is not None  # `step` refuses a guard with nothing to watch
        features, gamma = self.guard
        some = features[:: max(len(features) // GUARD_IMAGES, 1)][:GUARD_IMAGES]
        return float((self.score_with(some, bank).score < gamma).float().mean())

"""AdaNeg's memory: text and test images of every label that has images, and its proxies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LABELS_PER_CHUNK = 1024  # sample-adaptive proxies are worked out for so many labels at a time


def task_adaptive(memory: Tensor) -> Tensor:
    """Proxies v_c = unit(sum_l m_cl): (A, L, D), empty slots zero -> (A, D)."""
    return F.normalize(memory.sum(dim=1), dim=-1)


def sample_adaptive_cosine(
    features: Tensor, memory: Tensor, gram: Tensor, filled: Tensor, beta: float
) -> Tensor:
    """cos(h, v_c(h)) of the proxies v_c(h) = unit(sum_l w_l m_cl), w_l = exp(-beta(1 - m_cl h)).

    With a = M_c h and Q_c = M_c M_c^T this is (w a) / sqrt(w^T Q_c w): no proxy is ever formed,
    so nothing is as large as images x labels x D.

    Args:
        features: (B, D).
        memory: (A, L, D).
        gram: (A, L, L).
        filled: (A, L) bool.
        beta: sharpness of the weights.

    Returns:
        (B, A)
    """
    labels, slots, size = memory.shape
    a = (features @ memory.view(-1, size).t()).view(-1, labels, slots)  # (B, A, L)
    w = (beta * (a - 1)).exp() * filled
    wq = torch.einsum("bal,alk->bak", w, gram)
    return (w * a).sum(2) / (wq * w).sum(2).clamp_min(1e-12).sqrt()


class LabelMemory:
    """At most L - 1 image features of every label that has any, behind its text feature.

    A label gets a row when its first image comes, so the memory grows with the labels seen.

    Args:
        texts: (C + M, D) text features of all labels.
        slots: L, the text included.
        replace: a full label replaces its image of largest entropy by one of smaller entropy.
    """

    def __init__(self, texts: Tensor, slots: int, *, replace: bool):
        self._texts, self._slots, self._replace = texts, slots, replace
        self.moment: tuple[object, int] = object(), 0  # differs when images have come
        self._rows: dict[int, int] = {}  # label -> row of the memory
        self._memory = texts.new_zeros(0, slots, texts.shape[1])  # slot 0: text
        self._gram = texts.new_zeros(0, slots, slots)
        self._entropy: list[list[float]] = []  # of the images of each row, in slot order

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> Tensor:
        """(A,) labels with images, in the order of their rows."""
        return torch.tensor(list(self._rows), dtype=torch.int64, device=self._texts.device)

    @property
    def features(self) -> Tensor:
        """(A, L, D) text and images of these labels; empty slots are zero."""
        return self._memory[: len(self)]

    @property
    def entropies(self) -> Tensor:
        """(A, L) float64 entropies of the images; -1 for an empty slot and for the text."""
        entropies = torch.full((len(self), self._slots), -1.0, dtype=torch.float64)
        for row, values in enumerate(self._entropy):
            entropies[row, 1 : 1 + len(values)] = torch.tensor(values, dtype=torch.float64)
        return entropies

    def restore(self, labels: list[int], features: Tensor, entropies: Tensor) -> None:
        """Takes over `labels`, `features` and `entropies` of another memory."""
        self._rows = {label: row for row, label in enumerate(labels)}
        self._memory = features.clone()
        self._gram = features @ features.transpose(1, 2)
        self._entropy = [[v for v in row[1:] if not v < 0] for row in entropies.tolist()]

    def proxy_cosine(self, features: Tensor, beta: float | None) -> Tensor:
        """cos(h, v_c) for the labels with images, (B, A).

        Args:
            features: (B, D).
            beta: sharpness of the sample-adaptive weights; None for task-adaptive proxies.
        """
        count, memory = len(self), self.features
        if beta is None:
            return features @ task_adaptive(memory).t()
        used = torch.tensor([len(e) + 1 for e in self._entropy], device=self._texts.device)
        filled = torch.arange(self._slots, device=used.device) < used[:, None]
        parts = [
            sample_adaptive_cosine(features, memory[chunk], self._gram[chunk], filled[chunk], beta)
            for chunk in (
                slice(i, min(i + _LABELS_PER_CHUNK, count))
                for i in range(0, count, _LABELS_PER_CHUNK)
            )
        ]
        return torch.cat(parts, dim=1)

    def slot(self, label: int, entropy: float) -> int | None:
        """Slot that an image of this label and entropy would go to, or None."""
        room = self._slots - 1
        kept = self._entropy[self._rows[label]] if label in self._rows else []
        if len(kept) < room:
            return len(kept) + 1
        if not self._replace or not any(entropy < other for other in kept):
            return None
        return max(range(room), key=lambda i: (math.isnan(kept[i]), kept[i])) + 1  # NaN sorts last

    def place(self, label: int, entropy: float) -> tuple[int, int] | None:
        """Row and slot that an image of this label and entropy goes to, or None; books it."""
        slot = self.slot(label, entropy)
        if slot is None:
            return None
        if label not in self._rows:
            self._rows[label] = len(self._rows)
            self._entropy.append([])
        row = self._rows[label]
        self._entropy[row][slot - 1 : slot] = [entropy]
        return row, slot

    def own_cosine(
        self, features: Tensor, places: list[tuple[int, int]], beta: float | None
    ) -> Tensor:
        """cos(h, v_c) (B,) of images, each as if it alone were filed.

        Args:
            features: (B, D).
            places: label and slot that each goes to.
            beta: as `proxy_cosine`.
        """
        memory = features.new_zeros(len(features), self._slots, features.shape[1])
        memory[:, 0] = self._texts[[label for label, _ in places]]
        for image, (label, slot) in enumerate(places):
            if label in self._rows:
                memory[image] = self._memory[self._rows[label]]
            memory[image, slot] = features[image]
        if beta is None:
            return (features * task_adaptive(memory)).sum(dim=1)
        filled = memory.abs().amax(dim=2) > 0
        a = torch.einsum("bd,bld->bl", features, memory)
        w = (beta * (a - 1)).exp() * filled
        total = torch.einsum("bl,bld->bd", w, memory)
        return (w * a).sum(1) / total.norm(dim=1).clamp_min(1e-6)

    def write(self, features: Tensor, changed: dict[tuple[int, int], int]) -> None:
        """Writes images (B, D) of a batch where `place` said: (row, slot) -> image."""
        if not changed:
            return
        self.moment = self.moment[0], self.moment[1] + 1
        have, need = len(self._memory), len(self._rows)
        if need > have:  # doubling: a long stream allocates now and then, not for every batch
            new = max(need, min(2 * have, len(self._texts))) - have
            slots, size = self._memory.shape[1:]
            self._memory = torch.cat([self._memory, features.new_zeros(new, slots, size)])
            self._gram = torch.cat([self._gram, features.new_zeros(new, slots, slots)])
        device = features.device
        place = torch.tensor(list(changed), device=device)  # (n, 2)
        rows = place[:, 0].unique()
        self._memory[rows, 0] = self._texts[self.labels[rows]]
        self._memory[place[:, 0], place[:, 1]] = features[
            torch.tensor(list(changed.values()), device=device)
        ]
        memory = self._memory[rows]
        self._gram[rows] = memory @ memory.transpose(1, 2)

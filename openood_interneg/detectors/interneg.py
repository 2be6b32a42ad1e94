"""InterNeg (Xu et al., CVPR 2026): inter-modal distances on both sides, and a growing bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from openood_interneg.detectors.bank_detector import BankDetector
from openood_interneg.detectors.base import DetectorError, Scores, need_entries
from openood_interneg.detectors.batch_logits import BatchLogits, images_at_once
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.prefilter import Prefilter
from openood_interneg.detectors.watched import moved_along
from openood_interneg.negatives.mining import criterion_margin, deviation_degree
from openood_interneg.negatives.text_space import TextSpace


class _Batch(NamedTuple):
    """A batch before the bank learns from it.

    Attributes:
        features: (B, D).
        ids: (B,).
        every: its logits; kept up to date.
        score: (B,) with the bank as it was.
        gamma: (B,) thresholds where images are watched; brought to each image's own moment.
    """

    features: Tensor
    ids: Tensor
    every: BatchLogits
    score: Tensor
    gamma: Tensor | None


class InterNeg(BankDetector):
    r"""Softmax mass of the ID labels against mined negatives and a bank of inverted images.

    .. math:: S(h) = \frac{\sum_i e^{s \cos(h, e_i)/\tau}}
        {\sum_i e^{s \cos(h, e_i)/\tau} + \sum_j e^{s \cos(h, e_j^-)/\tau}
         + \sum_{e \in N^-} e^{s \cos(h, e)/\tau}}

    (Eq. 11; with G > 1 the mean over groups of the negatives). Images with S < beta are inverted
    into the text space; inversions that are farther from every image proxy than that class's
    label (Eq. 9) join the bank N^-, which keeps the K with the largest deviation degree (Eq. 10).

    `update: batch` follows the authors' code: a batch is scored, its gated images are inverted,
    and if there were any the whole batch is scored again. `update: sample` is Algorithm 1 to the
    letter: image by image, and only an image whose inversion was admitted is scored again, so
    results do not depend on how the stream is cut into batches.

    The ablation's intra-modal bank (Table 3, "Intra ENT": `bank: intra`) keeps inversions, too,
    but both the criterion and the deviation that ranks them compare image with image: h itself
    must be farther from every proxy than the class's own ID images are on average. `bank: image`
    is ours: the same filter, and the image features themselves are kept.

    With `prefilter` gated images whose inversions could hardly enter the bank are not inverted
    (`Prefilter`); `skipped` counts them. Not in the paper.

    Args:
        settings: hyper-parameters.
        inverter: (h, ids) -> unit rows; needed for `bank: inter` and `bank: intra`. A live
            inversion, a look-up of stored ones, or any other map.
    """

    _prefilter: Prefilter | None = None

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        super()._fit(space)
        self._prefilter = None
        if self.settings.prefilter and self.remembers:
            assert space.proxies is not None  # a bank without them was refused
            self._prefilter = Prefilter(space.proxies)

    def reset(self) -> None:
        """Empties the bank, and forgets what the pre-filter has learned."""
        super().reset()
        self.skipped = 0
        if self._prefilter is not None:
            self._prefilter.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """The bank and the counters; with a pre-filter what it has learned, too."""
        state = super().state_dict()
        if self._prefilter is not None:
            learned = self._prefilter.state_dict()
            state |= {f"prefilter.{k}": v for k, v in learned.items()}
            state["skipped"] = torch.tensor(self.skipped)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream; see `BankDetector.load_state_dict`."""
        if self._prefilter is not None:
            names = ("prefilter.looked", "prefilter.admissible")
            need_entries(state, (*names, "skipped"))
            try:
                self._prefilter.load_state_dict({n.partition(".")[2]: state[n] for n in names})
            except ValueError as error:
                raise DetectorError(str(error)) from None
            self.skipped = int(state["skipped"])
        super().load_state_dict(state)

    # ---- the stream ----------------------------------------------------------------------

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        if self.settings.update == "sample" and self.settings.groups > 1:
            # The same by smaller batches, so that the logits that admissions add to can be kept.
            size = images_at_once(self.space, self.bank)
            if len(features) > size:
                parts = zip(features.split(size), ids.split(size), strict=True)
                return Scores.joined([self._step(*part) for part in parts])
        if not self.bank.settled:  # once per batch, so that a resumed stream is laid out alike
            if self._beside is None:
                self.bank.settle()
            else:
                self._beside.settle(self.bank)
            self._bank_changed()
        every = self._batch_logits(features, self.bank)
        score = self._scores(every, self._columns)
        self.seen += len(features)
        gamma = None if self._watched is None else torch.full_like(score, self.threshold)
        if self.bank.capacity:
            update = self._update_batch if self.settings.update == "batch" else self._update_samples
            score = update(_Batch(features, ids, every, score, gamma))
        return Scores(every.id_logits.argmax(dim=1), score, gamma=gamma)

    def _update_batch(self, batch: _Batch) -> Tensor:
        features, ids, every, score, gamma = batch
        gated = (score < self.settings.beta).nonzero()[:, 0]
        if len(gated) == 0:
            return score
        gated, embeddings, good, deviation = self._screened(features, ids, gated)
        ids = ids[gated.to(ids.device)]
        if not self.bank.offer(embeddings[good], deviation[good], ids[good.to(ids.device)]):
            return score  # same bank, same scores
        self._admitted()
        every.admitted(self.bank)
        final = self._scores(every, self._columns)
        if gamma is not None:
            offered = gated[good]
            own = moved_along(gamma[offered], score[offered], final[offered])
            gamma[:] = self.threshold
            gamma[offered] = own
        return final

    def _update_samples(self, batch: _Batch) -> Tensor:
        """Algorithm 1. Only gated images cost anything: an admission adds one column of logits
        for the images that are still to come."""
        features, ids, every, score, gamma = batch
        final = score.clone()
        # Inversion does not depend on the bank, so images gated now are inverted together; those
        # that a growing bank gates later follow in further rounds.
        ready: dict[int, tuple[Tensor, bool, Tensor]] = {}
        prefilter = self._prefilter
        near: dict[int, Tensor] = {}  # similarities of gated images to the proxies, with pre-filter
        position = 0
        while position < len(features):
            gated = (final[position:] < self.settings.beta).nonzero()[:, 0] + position
            if len(gated) == 0:
                break
            first = int(gated[0])
            if prefilter is not None:
                if first not in near:
                    unseen = [i for i in gated.tolist() if i not in near]
                    near |= zip(unseen, prefilter.similarity(features[unseen]), strict=True)
                if not prefilter.passes(near[first]):
                    self.skipped += 1
                    position = first + 1
                    continue
            if first not in ready:
                wanted = [i for i in gated.tolist() if i not in ready]
                if prefilter is not None:  # what it has yet to learn, no more; then what passes
                    wanted = wanted[: prefilter.room or None]
                    wanted = [i for i in wanted if i in near and prefilter.passes(near[i])]
                fresh = torch.tensor(wanted)
                at = fresh.to(features.device)
                rows, good, deviation = self._candidates(features[at], ids[fresh.to(ids.device)])
                found = zip(fresh.tolist(), rows, good.tolist(), deviation, strict=True)
                ready |= {i: tuple(row) for i, *row in found}
            embedding, admissible, deviation = ready[first]
            position = first + 1
            if prefilter is not None:
                prefilter.learn(near[first][None], torch.tensor([admissible]))
            if not admissible:
                continue
            if not self.bank.offer(embedding[None], deviation[None], ids[first : first + 1]):
                continue
            self._admitted()
            rest = slice(first, None)  # the image itself and all after it
            before = final[first].clone()
            every.admitted(self.bank, rest)
            final[rest] = self._scores(every, self._columns, rest)
            if gamma is not None:
                gamma[first] = moved_along(gamma[first], before, final[first])
                gamma[position:] = self.threshold
        return final

    def _screened(
        self, features: Tensor, ids: Tensor, gated: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which of the gated images pass the pre-filter (n,), and their `_candidates`."""
        if self._prefilter is None:
            return gated, *self._candidates(features[gated], ids[gated.to(ids.device)])
        room = self._prefilter.room
        passing, found = gated[:0], []
        for rows in (gated[:room], gated[room:]):  # what it learns from, what it judges
            near = self._prefilter.similarity(features[rows])
            stays = self._prefilter.passes(near)
            self.skipped += len(rows) - int(stays.sum())
            rows, near = rows[stays.to(rows.device)], near[stays]
            if len(rows):
                found.append(self._candidates(features[rows], ids[rows.to(ids.device)]))
                self._prefilter.learn(near, found[-1][1])
                passing = torch.cat([passing, rows])
        if not found:
            none = features.new_empty(0)
            return passing, features[:0], none.bool(), none
        embeddings, good, deviation = (torch.cat(parts) for parts in zip(*found, strict=True))
        return passing, embeddings, good, deviation

    def _candidates(self, features: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Extra negatives of gated images: embeddings (n, D), criterion (n,), deviation (n,)."""
        proxies, floor, embeddings = self.space.proxies, self._floor, features
        assert proxies is not None and floor is not None  # `_fit` refuses a bank without them
        if self.settings.inverts:
            assert self.inverter is not None
            self.inverted += len(features)
            embeddings = self.inverter(features, ids)
        compared = embeddings if self.settings.bank == "inter" else features
        good = criterion_margin(compared, proxies, floor) < 0
        return embeddings, good, deviation_degree(compared, proxies, floor)


METHOD = Method(
    name="interneg",
    title="InterNeg",
    detector=InterNeg,
    paper="2603.02618",
    year=2026,
    venue="CVPR",
    needs=("negatives", "ID images"),
    state="bank of at most K inverted images",
    order_dependent=True,
    transductive=True,
    fpr="ood",
    inverts=True,
    causal={"update": "sample"},
    # M from the paper's Sections C and B.2; G from the authors' scripts.
    presets={
        "imagenet": {"num_negatives": 2000, "groups": 5},
        "imagenet_near": {"num_negatives": 2000, "groups": 1},
        "cifar10": {"num_negatives": 70000},
        "cifar100": {"num_negatives": 70000},
    },
)

"""InterNeg (Xu et al., CVPR 2026): inter-modal distances on both sides, and a growing bank."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import (
    group_order,
    grouped_score_from_lse,
    id_mass,
    logits,
)
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.mining import criterion_margin, deviation_degree
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings


class InterNeg(Detector[InterNegSettings]):
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

    Args:
        settings: hyper-parameters.
        inverter: (h, ids) -> unit rows; needed for `bank: inter` and `bank: intra`. A live
            inversion, a look-up of stored ones, or any other map.
    """

    Settings = InterNegSettings

    def __init__(self, settings: InterNegSettings | None = None, inverter: Inverter | None = None):
        super().__init__(settings)
        self.inverter = inverter

    # ---- fitting and memory --------------------------------------------------------------

    def _fit(self, space: TextSpace) -> None:
        settings = self.settings
        if settings.inverts and self.inverter is None:
            raise DetectorError(
                f"bank '{settings.bank}' inverts images and needs an inverter; pass one, or set "
                "bank: none"
            )
        floor = space.base if settings.bank == "inter" else space.image_base
        if settings.bank != "none" and (space.proxies is None or floor is None):
            raise DetectorError(
                f"bank '{settings.bank}' needs image proxies; give ID images, or set bank: none"
            )
        capacity = 0 if settings.bank == "none" else settings.bank_capacity
        # Labels, negatives, then the bank's rows where they lie: nothing is copied as it grows.
        fixed = len(space.labels) + len(space.negatives)
        dim = space.labels.shape[1]
        self._texts = torch.zeros(fixed + capacity, dim, device=space.device)
        self._texts[:fixed] = torch.cat([space.labels, space.negatives])
        self._bank_rows = self._texts[fixed:]
        self.bank = NegativeBank(capacity, dim, space.device)
        self._floor = floor
        self._ordered = 0, torch.arange(0, device=space.device)  # a number of columns, their order

    def reset(self) -> None:
        """Empties the bank."""
        self.bank.reset()
        self.seen = 0
        self.inverted = 0
        self._bank_changed()

    def state_dict(self) -> dict[str, Tensor]:
        """The bank, and how many images were seen and inverted."""
        counters = {"seen": torch.tensor(self.seen), "inverted": torch.tensor(self.inverted)}
        return {f"bank.{k}": v for k, v in self.bank.state_dict().items()} | counters

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues a stream.

        Raises:
            DetectorError: entries missing, or a bank that does not fit this detector.
        """
        try:
            self.bank.load_state_dict(
                {k.removeprefix("bank."): v for k, v in state.items() if k.startswith("bank.")}
            )
            self.seen, self.inverted = int(state["seen"]), int(state["inverted"])
        except KeyError as error:
            raise DetectorError(f"the stored state lacks {error}") from None
        except ValueError as error:
            raise DetectorError(str(error)) from None
        self._bank_changed()

    # ---- scoring -------------------------------------------------------------------------

    def _bank_changed(self) -> None:
        """With G > 1 finds the order of columns in which groups are runs, best negatives first."""
        self.bank.live_in(self._bank_rows)
        groups = self.settings.groups
        if groups == 1:
            return
        mined = len(self.space.negatives)
        first = torch.arange(mined, device=self.space.device)
        ranked = torch.cat([first, mined + self.bank.ranking])
        count = len(ranked)
        if count != self._ordered[0]:
            self._ordered = count, group_order(count, groups).to(ranked.device)
        self._columns = ranked[self._ordered[1]]

    def _all_logits(self, features: Tensor) -> Tensor:
        """(B, C + M + K) logits of labels, negatives and bank; columns of free places undefined."""
        every = features.new_empty(len(features), len(self._texts))
        used = len(self._texts) - self.bank.capacity + len(self.bank)
        torch.mm(features, self._texts[:used].t(), out=every[:, :used])
        every[:, :used] *= self.space.logit_scale / self.settings.tau
        return every

    def _negative_logits(self, every: Tensor) -> Tensor:
        """The negatives' logits (B, n) in group order: columns of `_all_logits`."""
        classes = len(self.space.labels)
        if self.settings.groups > 1:
            return every[:, classes:].index_select(1, self._columns)
        return every[:, classes : classes + len(self.space.negatives) + len(self.bank)]

    def _refresh(self, features: Tensor, every: Tensor, layout: int) -> None:
        """Brings `_all_logits` up to date after an `offer`: one column for each row written."""
        if self.bank.layout != layout:  # rows moved
            every.copy_(self._all_logits(features))
            return
        columns = self.bank.written + (len(self._texts) - self.bank.capacity)
        scale, tau = self.space.logit_scale, self.settings.tau
        every[:, columns] = logits(features, self._texts[columns], scale, tau)

    def _score(self, id_lse: Tensor, negative_logits: Tensor) -> Tensor:
        """Scores (B,) of the labels' log-sums (B,) and negative logits (B, n) in group order."""
        return grouped_score_from_lse(id_lse, negative_logits, self.settings.groups)

    def _single_score(self, id_lse: Tensor, negative_lse: Tensor, count: int) -> Tensor:
        """`_score` with one group, of the log-sums (B,) of `count` negatives."""
        return id_mass(id_lse, negative_lse)

    def score(self, features: Tensor, ids: Tensor | None = None) -> Scores:
        """Scores (B, D) features with the bank as it is and leaves it so."""
        space, settings = self.space, self.settings
        id_logits = logits(features, space.labels, space.logit_scale, settings.tau)
        return Scores(id_logits.argmax(dim=1), self.score_with(features, self.bank.features))

    def score_with(self, features: Tensor, bank: Tensor) -> Tensor:
        """Scores (B,) of features (B, D) as they would be with a bank of these rows (n, D)."""
        space, settings = self.space, self.settings
        negatives = torch.cat([space.negatives, bank])
        order = group_order(len(negatives), settings.groups).to(negatives.device)
        scale, tau = space.logit_scale, settings.tau
        id_lse = logits(features, space.labels, scale, tau).logsumexp(dim=1)
        return self._score(id_lse, logits(features, negatives[order], scale, tau))

    def _learned_negatives(self) -> Tensor:
        return self.bank.features

    # ---- the stream ----------------------------------------------------------------------

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        if not self.bank.settled:  # once per batch, so that a resumed stream is laid out alike
            self.bank.settle()
            self._bank_changed()
        every = self._all_logits(features)
        id_logits = every[:, : len(self.space.labels)]
        id_lse = id_logits.logsumexp(dim=1)
        score = self._score(id_lse, self._negative_logits(every))
        self.seen += len(features)
        if self.bank.capacity:
            if self.settings.update == "batch":
                score = self._update_batch(features, ids, every, id_lse, score)
            else:
                score = self._update_samples(features, ids, every, id_lse, score)
        return Scores(id_logits.argmax(dim=1), score)

    def _update_batch(
        self, features: Tensor, ids: Tensor, every: Tensor, id_lse: Tensor, score: Tensor
    ) -> Tensor:
        gated = (score < self.settings.beta).nonzero()[:, 0]
        if len(gated) == 0:
            return score
        ids = ids[gated.to(ids.device)]
        embeddings, good, deviation = self._candidates(features[gated], ids)
        layout = self.bank.layout
        if not self.bank.offer(embeddings[good], deviation[good], ids[good.to(ids.device)]):
            return score  # same bank, same scores
        self._bank_changed()
        self._refresh(features, every, layout)
        return self._score(id_lse, self._negative_logits(every))

    def _update_samples(
        self, features: Tensor, ids: Tensor, every: Tensor, id_lse: Tensor, score: Tensor
    ) -> Tensor:
        """Algorithm 1. Only gated images cost anything: an admission adds one column of logits
        for the images that are still to come."""
        final = score.clone()
        single = self.settings.groups == 1
        layout = self.bank.layout
        lse = self._negative_logits(every).logsumexp(dim=1) if single else id_lse
        # Inversion does not depend on the bank, so images gated now are inverted together; those
        # that a growing bank gates later follow in further rounds.
        ready: dict[int, tuple[Tensor, bool, Tensor]] = {}
        position = 0
        while position < len(features):
            gated = (final[position:] < self.settings.beta).nonzero()[:, 0] + position
            if len(gated) == 0:
                break
            first = int(gated[0])
            if first not in ready:
                fresh = torch.tensor([i for i in gated.tolist() if i not in ready])
                at = fresh.to(features.device)
                rows, good, deviation = self._candidates(features[at], ids[fresh.to(ids.device)])
                found = zip(fresh.tolist(), rows, good.tolist(), deviation, strict=True)
                ready |= {i: tuple(row) for i, *row in found}
            embedding, admissible, deviation = ready[first]
            position = first + 1
            if not admissible:
                continue
            full = len(self.bank) == self.bank.capacity
            if not self.bank.offer(embedding[None], deviation[None], ids[first : first + 1]):
                continue
            self._bank_changed()
            rest = slice(first, None)  # the image itself and all after it
            moved = self.bank.layout != layout
            self._refresh(features[rest], every[rest], layout)
            layout = self.bank.layout
            if not single:
                final[rest] = self._score(id_lse[rest], self._negative_logits(every[rest]))
                continue
            negatives = self._negative_logits(every[rest])
            if full or moved:  # a column was replaced
                lse[rest] = negatives.logsumexp(dim=1)
            else:  # the new column is the last one
                lse[rest] = torch.logaddexp(lse[rest], negatives[:, -1])
            final[rest] = self._single_score(id_lse[rest], lse[rest], negatives.shape[1])
        return final

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

"""TINS (Yang et al., 2026): InterNeg with inversions kept away from the image proxies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.method import Method
from openood_interneg.negatives.overflow_bank import OverflowBank
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.negatives.word_inversion import word_inversion
from openood_interneg.settings import InterNegSettings, SettingsError, setting


@dataclass(frozen=True)
class TINSSettings(InterNegSettings):
    """Settings of TINS."""

    groups: int = setting(5, "G, groups over which the score is averaged", low=1)
    beta: float = setting(
        0.3, "an image that scores below this gate is a candidate for the bank", low=0, high=1
    )
    steps: int = setting(30, "S, optimisation steps of an inversion", low=1, high=1000)
    repulsion: float = setting(
        0.3, "lambda, how strongly inversions are kept from the image proxies", low=0.0
    )
    word_template: str = setting(
        "a photo of a {}.", "prompt of the mined words from which inversions start"
    )
    buffer_capacity: int = setting(
        2000, "B, overflow of the bank that is kept until it is mixed in; 0 drops it", low=0
    )

    def check(self) -> None:
        """InterNeg's options of inversion have no meaning here."""
        super().check()
        if self.prefilter or self.init != "random":
            raise SettingsError(
                "prefilter and init are options of InterNeg's inversion; TINS inverts in its own "
                "way, from the nearest mined word: leave them out"
            )


class TINS(InterNeg):
    r"""InterNeg's stream with a size-normalised score and regularised inversions.

    .. math:: S(h) = \frac{1}{G} \sum_g \sigma\Bigl(\log \sum_i e^{s \cos(h, e_i)}
        - \log \frac{C}{n_g} \sum_{j \in g} e^{s \cos(h, e_j^-)}\Bigr)

    Group g has n_g negatives, C is the number of labels: negatives count by their mean, so the
    gate means the same however many there are. An image is inverted towards h - lambda p_bar,
    from the mined word that is nearest to that; what no longer fits into the bank waits in a
    buffer (`OverflowBank`).

    Args:
        settings: hyper-parameters.
        inverter: (h, ids) -> unit rows; `negatives.word_inversion` makes TINS's.

    Source: arXiv 2605.10756 and its code.
    """

    Settings = TINSSettings
    settings: TINSSettings

    def _fit(self, space: TextSpace) -> None:
        if self.settings.update == "sample" and self.settings.buffer_capacity:
            raise DetectorError(
                "TINS updates its bank per batch; set update: batch, or buffer_capacity: 0"
            )
        super()._fit(space)
        self.bank = OverflowBank(
            self.bank.capacity,
            space.labels.shape[1],
            self.settings.buffer_capacity,
            self.settings.seed,
            space.device,
        )

    def _shift(self, size: int) -> float:
        return math.log(size / len(self.space.labels))


METHOD = Method(
    name="tins",
    title="TINS",
    detector=TINS,
    paper="2605.10756",
    year=2026,
    venue="arXiv",
    needs=("negatives", "ID images"),
    state="bank of at most K inverted images, and a buffer of B that did not fit",
    order_dependent=True,
    transductive=True,
    # One prompt, and the last token of its word.
    fixed={"templates": "photo", "num_tokens": 1},
    # Its inversions start from a word as they are, and what the pre-filter predicts was measured
    # for inversions towards h, not towards h - lambda p_bar.
    without=("templates", "num_tokens", "init", "prefilter"),
    fpr="id",
    inverts=True,
    inversion=word_inversion,
    causal={"update": "sample", "buffer_capacity": 0},
    presets={
        "imagenet": {"num_negatives": 2000, "groups": 5, "repulsion": 0.3},
        "imagenet_near": {"num_negatives": 2000, "groups": 5, "repulsion": 0.3},
        "cifar10": {"num_negatives": 70000, "groups": 5, "repulsion": 0.5},
        "cifar100": {"num_negatives": 70000, "groups": 5, "repulsion": 0.5},
    },
)

"""Every hyper-parameter that methods share, once: name, default, range, meaning.

The same dataclasses feed the YAML files, the command line and the Python interface, so a setting
has one name everywhere. The defaults are from the paper's Section C and the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openood_interneg.settings.errors import SettingsError
from openood_interneg.settings.fields import LARGEST, Settings, setting


@dataclass(frozen=True)
class MethodSettings(Settings):
    """Base of every method's settings.

    The classes below go by need: labels < ID images < negative texts. A method's settings derive
    from the one whose settings it uses, so that it has no setting without effect.
    """

    @property
    def reads_id_images(self) -> bool:
        """Whether a method with these settings looks at ID training images."""
        return False

    @property
    def keeps_shots(self) -> bool:
        """Whether a method with these settings compares with the ID images one by one."""
        return False

    @property
    def inverts(self) -> bool:
        """Whether a method with these settings inverts images, so that it needs an inverter."""
        return False


@dataclass(frozen=True)
class LabelSettings(MethodSettings):
    """The ID labels, where they are encoded under a prompt."""

    label_prompt: str = setting("nice", "prompt set or template of the ID labels")


@dataclass(frozen=True)
class IdImageSettings(LabelSettings):
    """Labels, and which ID training images are looked at."""

    images_per_class: int = setting(
        16, "N, ID images per class that make its image proxy (Eq. 7)", low=1
    )
    proxy_select: Literal["random", "first"] = setting(
        "random", "which N images of a class: drawn with proxy_seed, or the first of the list"
    )
    proxy_seed: int = setting(0, "seed of the draw of the ID images", low=0, high=LARGEST)

    @property
    def reads_id_images(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class NegativeSettings(IdImageSettings):
    """Labels, ID images (as image proxies) and mined negative texts."""

    noun_prompt: str = setting("nice", "prompt set or template of the nouns of the corpus")
    adjective_prompt: str = setting("adjective", "prompt set or template of the adjectives")
    corpus: str = setting(
        "wordnet", "where words come from: wordnet, nltk:wordnet31, a text or CSV file"
    )
    negatives: Literal["inter", "intra", "none"] = setting(
        "inter", "negative texts by the inter-modal criterion (Eq. 9), NegLabel's, or none"
    )
    num_negatives: int = setting(2000, "M, negative texts kept (Section C)", low=0, high=10_000_000)
    intra_quantile: float = setting(
        0.95, "quantile of a word's cosines with the labels (NegLabel)", low=0.0, high=1.0
    )
    intra_quantile_rule: Literal["index", "linear"] = setting(
        "index", "quantile as the sorted value at int(q C), or interpolated"
    )
    ignore_case: bool = setting(True, "compare words with class names without regard to case")
    corpus_precision: Literal["same", "auto", "fp32", "bf16"] = setting(
        "same",
        "precision in which the corpus is encoded: the model's own (same), or bf16 where the "
        "device has it (auto)",
    )

    @property
    def reads_id_images(self) -> bool:
        """Only for the inter-modal criterion: the texts rank by image proxies."""
        return self.negatives == "inter"


@dataclass(frozen=True)
class InversionSettings(MethodSettings):
    """How images are inverted into the text space (Algorithm 2)."""

    num_tokens: int = setting(1, "T, pseudo-tokens per image", low=1, high=16)
    steps: int = setting(
        10, "S, optimisation steps of an inversion (Algorithm 2)", low=1, high=1000
    )
    lr: float = setting(2e-2, "learning rate of AdamW", low=0.0)
    weight_decay: float = setting(0.01, "weight decay of AdamW", low=0.0)
    templates: str = setting(
        "imagenet80", "prompts around the pseudo-token: imagenet80, photo, or a template"
    )
    seed: int = setting(
        0, "seed of the pseudo-tokens and of the drawn templates", low=0, high=LARGEST
    )
    init: Literal["random", "words"] = setting(
        "random",
        "pseudo-tokens before the first step: drawn (the paper), or the token embedding that a map "
        "fitted on the nouns of the corpus gives for the image",
    )


@dataclass(frozen=True)
class InterNegSettings(InversionSettings, NegativeSettings):
    """InterNeg (CVPR 2026) with the switches of its ablation (Table 3)."""

    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(1, "G, groups over which the score is averaged", low=1)
    beta: float = setting(
        0.35, "an image that scores below this gate is a candidate for the bank", low=0, high=1
    )
    bank: Literal["inter", "intra", "image", "none"] = setting(
        "inter",
        "extra negatives: inversions filtered by their distance (inter) or by their image's "
        "(intra), image features (image), or none",
    )
    bank_capacity: int = setting(2000, "K, largest number of extra negatives", low=0)
    update: Literal["batch", "sample"] = setting(
        "batch", "bank update per batch (authors' code) or per image (Algorithm 1)"
    )
    prefilter: bool = setting(
        False,
        "learn from the first 256 inversions of a stream which images below the gate cannot enter "
        "the bank, and do not invert those",
    )

    def check(self) -> None:
        """The pre-filter predicts the criterion of `bank: inter`, and of no other bank."""
        super().check()
        if self.prefilter and self.bank != "inter":
            raise SettingsError(
                f"prefilter is true and bank is {self.bank}; the pre-filter predicts which "
                "inversions enter the bank 'inter': set bank: inter, or prefilter: false"
            )

    @property
    def inverts(self) -> bool:
        """Whether the bank is made of inversions, so that an inverter is needed."""
        return self.bank in ("inter", "intra") and self.bank_capacity > 0

    @property
    def reads_id_images(self) -> bool:
        """Always: what enters the bank is judged by the image proxies, too."""
        return True

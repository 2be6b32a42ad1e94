"""LAPT: learned prompts of labels and negatives (Zhang et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from openood_interneg.detectors.method import Method
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.neglabel import space as neglabel_space
from openood_interneg.detectors.trained_base import (
    CHECKPOINT_HELP,
    POSITION_HELP,
    trained_presets,
    trained_space,
)
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import setting
from openood_interneg.vlm.trained_prompts import (
    NOT_GIVEN,
    learned_prompts,
    pick,
    read_checkpoint,
)


@dataclass(frozen=True)
class LAPTSettings(NegLabelSettings):
    """Settings of LAPT: NegLabel's, and a checkpoint."""

    num_negatives: int = setting(10_000, "M, negative texts kept", low=0, high=10_000_000)
    groups: int = setting(100, "G, groups over which the score is averaged", low=1)
    checkpoint: str = setting(NOT_GIVEN, CHECKPOINT_HELP)
    class_position: Literal["end", "front"] = setting("end", POSITION_HELP)


class LAPT(NegLabel):
    r"""NegLabel's grouped score over learned prompts, one for labels and one for negatives.

    .. math:: S(h) = \operatorname{GRP}(s \cos(h, e_i), s \cos(h, n_j))

    Negative words are mined with the plain prompts, as NegLabel does, and encoded again behind
    the learned negative context. Source: arXiv 2407.08966.
    """

    Settings = LAPTSettings


def lapt_space(source: TextSource, settings: LAPTSettings) -> TextSpace:
    """Labels behind `ctx`, mined words behind `ood_ctx`."""
    tensors = read_checkpoint(settings.checkpoint)
    words = neglabel_space(source, settings).negative_words
    backbone, position = source.backbone, settings.class_position
    labels = learned_prompts(backbone, pick(tensors, "ctx"), source.class_names, position=position)
    negatives = labels[:0]
    if words:
        negatives = learned_prompts(backbone, pick(tensors, "ood_ctx"), words, position=position)
    return replace(trained_space(source, labels, negatives), negative_words=words)


METHOD = Method(
    name="lapt",
    title="LAPT",
    detector=LAPT,
    space=lapt_space,
    paper="2407.08966",
    year=2024,
    venue="ECCV",
    needs=("negatives", "extra file"),
    fpr="ood",
    presets=trained_presets(num_negatives=10_000, groups=100),
)

"""What the methods with trained prompts or text towers share.

Nothing is trained here. Each of these methods is a recipe that turns its checkpoint into text
features (layouts: `vlm/trained_prompts.py`), and a scoring rule over them. LoCoOp and Local-Prompt
look at patches: they take features (1 + P, B, D), the image first, as
`vlm.patches.encode_with_patches` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from openood_interneg.detectors.base import DetectorError
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import MethodSettings, setting
from openood_interneg.vlm.trained_prompts import NOT_GIVEN

CHECKPOINT_HELP = "file with the method's learned prompts"
POSITION_HELP = "where the class name stands among the learned vectors"
TAU_HELP = "temperature T on the bare cosine"


@dataclass(frozen=True)
class TrainedSettings(MethodSettings):
    """What all of them share: a checkpoint, from which labels and negative texts come."""

    checkpoint: str = setting(NOT_GIVEN, CHECKPOINT_HELP)
    class_position: Literal["end", "front"] = setting("end", POSITION_HELP)


def trained_space(
    source: TextSource, labels: Tensor, negatives: Tensor | None = None, **extra: Tensor
) -> TextSpace:
    """A text space of the source's classes; `extra` becomes `TextSpace.extra`."""
    return TextSpace(
        labels=labels,
        logit_scale=source.backbone.logit_scale,
        negatives=labels[:0] if negatives is None else negatives,
        class_names=source.class_names,
        extra=extra,
    )


def split_patches(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(1 + P, B, D) -> the images (B, D) and their patches (B, P, D)."""
    if features.dim() != 3 or len(features) < 2:
        raise DetectorError(
            f"{name} scores patches: it takes features (1 + P, B, D), the image first, as "
            f"encode_with_patches makes them; these have shape {tuple(features.shape)}"
        )
    return features[0], features[1:].transpose(0, 1)


def trained_presets(**values: Any) -> dict[str, dict[str, Any]]:
    """The same for all: the papers' ImageNet settings, CIFAR has none of its own; CLIPN's
    prompts are a stand-in, see `CLIPNSettings`."""
    return {name: dict(values) for name in ("imagenet", "cifar10", "cifar100")}

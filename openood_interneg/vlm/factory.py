"""`load_backbone`: the one way to a frozen model, wherever its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from openood_interneg.settings import shown
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.checkpoints import image_size
from openood_interneg.vlm.clip_weights import CheckpointError
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.dual_encoder import hf_tokenizer
from openood_interneg.vlm.hf_layout import hf_preprocess
from openood_interneg.vlm.loaders.base import CHECKPOINT_SUFFIXES, WeightsError, find_loader
from openood_interneg.vlm.loaders.open_clip_names import OPENAI_BACKBONES
from openood_interneg.vlm.precision import Precision, warn_of_emulation
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tokenizers import Tokenizer, checked_tokenizer, clip_tokenizer

__all__ = ["OPENAI_BACKBONES", "WeightsError", "backbone_label", "load_backbone"]


def load_backbone(
    source: str | Path | nn.Module = "ViT-B/16",
    *,
    pretrained: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    name: str | None = None,
    tokenizer: Tokenizer | None = None,
    processor: Any = None,
) -> Backbone:
    """Loads a frozen CLIP.

    Args:
        source: one of the paper's backbones (RN50, RN101, ViT-B/32, ViT-B/16, ViT-L/14; OpenAI's
            weights through open_clip), an open_clip model name with `pretrained`, a local
            checkpoint (.safetensors, .pt, .pth, .bin in OpenAI's state-dict layout), the word
            "miniature" for the embedded one, a folder or a name "owner/model" of Hugging Face, or a
            model object of the packages `clip`, `open_clip` or `transformers`.
        pretrained: open_clip's tag or a weights file for it.
        device: explicit; nothing is moved later. "auto" is a GPU if there is one.
        precision: of the towers' matrix products, see `Backbone`.
        name: shown in tables; by default the source's.
        tokenizer: list of n texts -> (n, context) int64. By default the named model's own; for an
            object or a checkpoint CLIP's, which is refused where the vocabulary is another. One of
            transformers is taken, too.
        processor: what images need: a `Preprocess`, or a processor of transformers; by default the
            model's own. Objects of transformers that are no CLIP need one.

    The activation is the one that the weights were trained with: a tag's as open_clip has it,
    QuickGELU for the paper's five names with OpenAI's weights or a file. A JSON file beside a
    weights file takes precedence (see `checkpoints.read_config`). Where neither is given, a
    warning says which activation is used.

    Raises:
        SettingsError: a device that is not there.
        WeightsError: the weights are not on this machine and cannot be downloaded.
        CheckpointError: an unreadable or unsuitable local file.
        TokenizerError: a tokenizer that is not the model's.
        MissingPackageError: the model's tokenizer needs a package that is not installed.
    """
    device = pick_device(device)
    warn_of_emulation(precision, device)
    source = source if isinstance(source, nn.Module) else str(source)
    loader = find_loader(source, pretrained)
    loaded = loader.load(source, pretrained, own_tokenizer=tokenizer is None)
    model, label = loaded.model, name or loaded.label
    preprocess = loaded.preprocess if processor is None else _preprocess(processor, model, label)
    if preprocess is None:
        raise CheckpointError(
            f"{label}: an object of transformers does not hold what its images need; pass "
            "load_backbone(model, tokenizer=..., processor=...)"
        )
    if hasattr(tokenizer, "pad_token_id"):  # of transformers
        tokenizer = hf_tokenizer(tokenizer, model)
    tokenizer = tokenizer or loaded.tokenizer or clip_tokenizer(model, label)
    tokenizer = checked_tokenizer(tokenizer, model, label)
    return Backbone(model, tokenizer, preprocess, name=label, device=device, precision=precision)


def _preprocess(processor: Any, model: nn.Module, label: str) -> Preprocess:
    """What a `Preprocess`, or a processor of transformers, says.

    Raises:
        CheckpointError: it is neither, or not for the model's size of images.
    """
    size = image_size(model)
    if isinstance(processor, Preprocess):
        found = processor
    else:
        config: dict[str, Any] = getattr(
            getattr(processor, "image_processor", processor), "to_dict", dict
        )()
        if not config:
            raise CheckpointError(
                f"processor is {shown(processor)}; pass a Preprocess or a processor of transformers"
            )
        found = hf_preprocess(config, size or 224, f"the processor of {label}")
    if size not in (None, found.size):
        raise CheckpointError(f"the processor gives squares of {found.size}, {label} takes {size}")
    return found


def backbone_label(source: str | Path) -> str:
    """How a backbone is printed: names as they are, files by their stem."""
    text = str(source)
    return Path(text).stem if text.endswith(CHECKPOINT_SUFFIXES) else text

"""`load_backbone`: the one way to a frozen model, wherever its weights come from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.loaders.base import CHECKPOINT_SUFFIXES, WeightsError, find_loader
from openood_interneg.vlm.loaders.open_clip_names import OPENAI_BACKBONES
from openood_interneg.vlm.precision import Precision, warn_of_emulation
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
) -> Backbone:
    """Loads a frozen CLIP.

    Args:
        source: one of the paper's backbones (RN50, RN101, ViT-B/32, ViT-B/16, ViT-L/14; OpenAI's
            weights through open_clip), an open_clip model name with `pretrained`, a local
            checkpoint (.safetensors, .pt, .pth, .bin in OpenAI's state-dict layout), the word
            "miniature" for the embedded one, or a model object of the packages `clip` or
            `open_clip`.
        pretrained: open_clip's tag or a weights file for it.
        device: explicit; nothing is moved later. "auto" is a GPU if there is one.
        precision: of the towers' matrix products, see `Backbone`.
        name: shown in tables; by default the source's.
        tokenizer: list of n texts -> (n, context) int64. By default the named model's own; for an
            object or a checkpoint CLIP's, which is refused where the vocabulary is another.

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
    tokenizer = tokenizer or loaded.tokenizer or clip_tokenizer(model, label)
    tokenizer = checked_tokenizer(tokenizer, model, label)
    return Backbone(
        model, tokenizer, loaded.preprocess, name=label, device=device, precision=precision
    )


def backbone_label(source: str | Path) -> str:
    """How a backbone is printed: names as they are, files by their stem."""
    text = str(source)
    return Path(text).stem if text.endswith(CHECKPOINT_SUFFIXES) else text

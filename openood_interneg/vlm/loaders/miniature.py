"""The embedded miniature: a small CLIP that knows drawn shapes, with nothing to download."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from torch import nn

from openood_interneg.vlm.checkpoints import load_checkpoint
from openood_interneg.vlm.loaders.base import LoadedModel, Loader, register_loader

MINIATURE = "miniature"


@register_loader
class MiniatureLoader(Loader):
    """The word "miniature"; see `tools/train_miniature.py` for how it was trained."""

    priority = 20

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        return source == MINIATURE and pretrained is None

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        with as_file(files("openood_interneg.vlm") / "miniature" / "clip.safetensors") as path:
            return LoadedModel(*load_checkpoint(path), MINIATURE)

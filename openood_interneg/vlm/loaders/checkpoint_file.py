"""Local checkpoints in the layout of OpenAI's state dict."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from openood_interneg.vlm.checkpoints import load_checkpoint
from openood_interneg.vlm.loaders.base import (
    CHECKPOINT_SUFFIXES,
    LoadedModel,
    Loader,
    register_loader,
)


@register_loader
class CheckpointFileLoader(Loader):
    """A path that ends like a checkpoint, without `pretrained`."""

    priority = 30

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        named = isinstance(source, str) and source.endswith(CHECKPOINT_SUFFIXES)
        return named and pretrained is None

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        path = Path(str(source)).expanduser()
        return LoadedModel(*load_checkpoint(path), path.stem)

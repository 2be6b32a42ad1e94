"""The embedded miniature: a small CLIP that knows drawn shapes, with nothing to download."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from torch import nn

from openood_interneg.vlm.checkpoints import read_config
from openood_interneg.vlm.clip_weights import CheckpointError, build_clip
from openood_interneg.vlm.loaders.base import LoadedModel, Loader, register_loader
from openood_interneg.vlm.packed_weights import unpacked
from openood_interneg.vlm.tensor_files import read_tensors

MINIATURE = "miniature"


@register_loader
class MiniatureLoader(Loader):
    """The word "miniature"; see `tools/train_miniature.py`, `tools/pack_miniature.py`."""

    priority = 20

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        return source == MINIATURE and pretrained is None

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        with as_file(files("openood_interneg.vlm") / "miniature") as folder:
            path = folder / "packed.safetensors"
            state = unpacked(read_tensors(path, CheckpointError))
            config, origin = read_config(folder / "clip.json")
            return LoadedModel(*build_clip(state, config, str(path), origin), MINIATURE)

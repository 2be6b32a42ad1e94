"""Models that the caller has built: objects of the packages `clip` or `open_clip`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from openood_interneg.vlm.checkpoints import CheckpointError, own_preprocess
from openood_interneg.vlm.loaders.base import LoadedModel, Loader, register_loader
from openood_interneg.vlm.preprocess import Preprocess


@register_loader
class ModelObjectLoader(Loader):
    """A module with CLIP's interface."""

    priority = 10

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        return isinstance(source, nn.Module)

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        """A copy of the object, so that the caller's stays as it is.

        Raises:
            CheckpointError: it lacks a part of CLIP's interface.
        """
        assert isinstance(source, nn.Module)
        for needed in ("encode_image", "encode_text", "visual", "logit_scale"):
            if not hasattr(source, needed):
                raise CheckpointError(
                    f"{type(source).__name__} is no CLIP model object: it has no '{needed}'"
                )
        model: Any = copy.deepcopy(source).float()
        size = getattr(model.visual, "input_resolution", None)
        preprocess = Preprocess(size=int(size)) if size else own_preprocess(model)
        return LoadedModel(model, preprocess, "clip object")

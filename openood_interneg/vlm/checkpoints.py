"""Local CLIP checkpoints in OpenAI's state-dict layout, read without running code from them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openood_interneg.settings import shown
from openood_interneg.vlm.clip_weights import CheckpointError, build_clip
from openood_interneg.vlm.hf_layout import (
    HF_CONFIG,
    clip_config,
    is_hugging_face,
    openai_layout,
)
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tensor_files import read_tensors
from openood_interneg.vlm.text_files import read_json_object

OPEN_CLIP_CONFIG = "open_clip_config.json"
_METADATA = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's own files alone


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pt, .pth or .bin file, float32, on the CPU.

    Pickled files are read with `weights_only=True`, so nothing in them is executed; TorchScript
    archives (OpenAI's original downloads) carry code and are refused.

    Raises:
        CheckpointError: absent, truncated or corrupt file, or a file with something else in it.
    """
    tensors = read_tensors(path, CheckpointError)
    inner = {
        name.removeprefix("state_dict."): tensor
        for name, tensor in tensors.items()
        if name.startswith("state_dict.")
    }
    tensors = {name.removeprefix("module."): v for name, v in (inner or tensors).items()}
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict (names with tensors)")
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """The model configuration in a JSON file beside a checkpoint, and the name of that file.

    It is the file of the checkpoint's own stem, or else `open_clip_config.json` in its folder.

    Returns:
        open_clip's model configuration (`vision_cfg`, `text_cfg`, `quick_gelu`, ...) with the
        block `preprocess` beside; empty, with an empty name, where there is neither file.

    Raises:
        CheckpointError: an unreadable file, or one of another form.
    """
    own, shared = path.with_suffix(".json"), path.with_name(OPEN_CLIP_CONFIG)
    file = next((file for file in (own, shared) if os.path.lexists(file)), None)
    if file is None:
        return {}, ""
    config = read_json_object(file, CheckpointError)
    if isinstance(config.get("model_cfg"), dict):  # open_clip's own form
        inner = {"quick_gelu": False} | config["model_cfg"]
        config = inner | {"preprocess": config.get("preprocess_cfg") or {}}
    for name in ("vision_cfg", "text_cfg", "preprocess"):
        if not isinstance(config.get(name) or {}, dict):
            raise CheckpointError(f"{file}: {name} must map names to values")
    if not isinstance(config.get("quick_gelu", False), bool):
        raise CheckpointError(
            f"{file}: quick_gelu is {shown(config['quick_gelu'])}; it is true or false"
        )
    return config, str(file)


def load_checkpoint(path: Path) -> tuple[nn.Module, Preprocess]:
    """A CLIP with the weights of a file in OpenAI's or Hugging Face's layout; its preprocessing.

    A JSON file beside it (see `read_config`) may give what the weights do not contain:
    `quick_gelu`, flags and numbers of heads in open_clip's `vision_cfg` and `text_cfg`,
    `preprocess`, or OpenAI's `transformer_heads`. Everything else is read off the weights' shapes.
    Without such a file the activation is OpenAI's quick GELU, with a warning where the weights are
    not recognisably OpenAI's.

    Raises:
        CheckpointError: as `read_state_dict`, where names or shapes do not fit a CLIP, where the
            JSON file contradicts the weights or names something to load from elsewhere.
    """
    config, source = read_config(path)
    state = read_state_dict(path)
    if is_hugging_face(state):
        state = openai_layout(state)
        if not source and (beside := path.with_name(HF_CONFIG)).is_file():
            config, source = (
                clip_config(read_json_object(beside, CheckpointError), str(beside)),
                str(beside),
            )
    from_openai = any([state.pop(name, None) is not None for name in _METADATA])
    found = build_clip(state, config, str(path), source)
    if "quick_gelu" not in config and not from_openai and "transformer_heads" not in config:
        warnings.warn(
            f"{path}: nothing says which activation these weights were trained with; they run with "
            "OpenAI's QuickGELU. open_clip's own (LAION's, DataComp's) need GELU: write "
            f'{{"quick_gelu": false}}, or true, into {path.with_suffix(".json").name} beside it',
            stacklevel=2,
        )
    return found


def own_preprocess(model: Any) -> Preprocess:
    """The preprocessing that open_clip keeps on a model; CLIP's where it keeps none.

    Raises:
        CheckpointError: one that is not supported.
    """
    config = getattr(model.visual, "preprocess_cfg", None) or {}
    size = config.get("size") or getattr(model.visual, "image_size", None)
    if size is None:
        raise CheckpointError(
            f"{type(model).__name__}: neither visual.image_size nor visual.preprocess_cfg says "
            "how large its images are; set one"
        )
    return Preprocess.from_open_clip(config, size, type(model).__name__, CheckpointError)


def image_size(model: Any) -> int | None:
    """Side of the images that a model takes, or None where it does not say."""
    for owner in (model, getattr(model, "visual", None)):
        for name in ("image_size", "input_resolution"):
            size = getattr(owner, name, None)
            if isinstance(size, (tuple, list)) and len(size) == 2 and size[0] == size[1]:
                size = size[0]
            if isinstance(size, int):
                return size
    return None

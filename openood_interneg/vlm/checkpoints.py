"""Local CLIP checkpoints in OpenAI's state-dict layout, read without running code from them."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openood_interneg.settings import InternegError
from openood_interneg.vlm.preprocess import Preprocess


class CheckpointError(InternegError, ValueError):
    """A checkpoint that cannot be read, or that is not a CLIP in OpenAI's layout."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pt, .pth or .bin file, float32, on the CPU.

    Pickled files are read with `weights_only=True`, so nothing in them is executed; TorchScript
    archives (OpenAI's original downloads) carry code and are refused.

    Raises:
        CheckpointError: absent, truncated or corrupt file, or a file with something else in it.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            _refuse_torchscript(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and torch raise many kinds
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {_first_line(error)}; it is truncated, damaged "
            "or not a plain file of tensors. Download or export it again (safetensors is best)"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict (names with tensors)")
    tensors = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_checkpoint(path: Path) -> tuple[nn.Module, Preprocess]:
    """A CLIP with the weights of a file in OpenAI's layout, and its preprocessing.

    A JSON file of the same stem beside it may give what weights cannot tell: open_clip's
    `vision_cfg`, `text_cfg`, `quick_gelu`, `preprocess`, or OpenAI's `transformer_heads`.
    Everything else is read off the weights' shapes; activation defaults to OpenAI's quick GELU.

    Raises:
        CheckpointError: as `read_state_dict`, or where names or shapes do not fit a CLIP.
    """
    # open_clip takes a second to import: not before a checkpoint is really read
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    state = read_state_dict(path)
    config = _read_json(path.with_suffix(".json"))
    for name in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's metadata
        state.pop(name, None)
    needed = ("token_embedding.weight", "positional_embedding", "text_projection", "logit_scale")
    missing = [name for name in (*needed, "ln_final.weight") if name not in state]
    if missing:
        raise CheckpointError(
            f"{path} is not a CLIP in OpenAI's layout: it lacks {', '.join(missing)}"
        )
    try:
        vision = _vision_sizes(state) | _known(CLIPVisionCfg, config.get("vision_cfg"))
        text = _text_sizes(state, config) | _known(CLIPTextCfg, config.get("text_cfg"))
        model = CLIP(
            embed_dim=state["text_projection"].shape[1],
            vision_cfg=CLIPVisionCfg(**vision),
            text_cfg=CLIPTextCfg(**text),
            quick_gelu=config.get("quick_gelu", True),
        )
        model.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit a CLIP of the sizes they imply: {_first_line(error)}"
        ) from error
    preprocess = config.get("preprocess") or {}
    size = preprocess.get("size", vision["image_size"])
    return model, Preprocess(**({"size": size} | preprocess))


def _known(cls: type, block: dict[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (block or {}).items() if k in cls.__dataclass_fields__}


def _text_sizes(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    width = state["ln_final.weight"].shape[0]
    return {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": width,
        "heads": config.get("transformer_heads", max(width // 64, 1)),
        "layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
    }


def _vision_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    if "visual.proj" in state:  # vision transformer
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        return {
            "layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
            "width": width,
            "patch_size": patch,
            "image_size": patch * grid,
            "head_width": min(64, width),
        }
    layers = tuple(_count(state, rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4))
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "layers": layers,
        "width": state["visual.layer1.0.conv1.weight"].shape[0],
        "image_size": grid * 32,
    }


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return len({m.group(1) for m in (re.match(pattern, name) for name in state) if m})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    return config


def _refuse_torchscript(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript archive, which holds code, and code from a "
                    "checkpoint is never run here. The same weights come through "
                    "load_backbone('ViT-B/16'), or export its state dict to safetensors"
                )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

"""A CLIP of open_clip's class from weights in OpenAI's layout; sizes are read off the weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openood_interneg.settings import InternegError, first_line, shown
from openood_interneg.vlm.preprocess import Preprocess

MAX_CONTEXT = 4096  # positions of a text; the attention mask grows with the square

# Read off the shapes of the weights; a configuration may repeat these values but not change them.
_SIZES_OF_WEIGHTS = (
    *("layers", "width", "patch_size", "image_size"),
    *("context_length", "vocab_size"),
)
# Keys of open_clip's configurations that name something to load, or say how.
_PLACES = ("timm_", "hf_", "tokenizer")


class CheckpointError(InternegError, ValueError):
    """A checkpoint that cannot be read, or that is not a CLIP in OpenAI's layout."""


def build_clip(
    state: dict[str, Tensor], config: Mapping[str, Any], place: str, source: str = ""
) -> tuple[nn.Module, Preprocess]:
    """A CLIP with these weights, and its preprocessing.

    Args:
        state: weights in OpenAI's layout, float32, on the CPU.
        config: what they do not contain; see `checkpoints.load_checkpoint`.
        place: where they are from, for errors.
        source: where the configuration is from; empty for none.

    Raises:
        CheckpointError: names or shapes that do not fit a CLIP, or a configuration that contradicts
            the weights or names something to load from elsewhere.
    """
    # open_clip takes a second to import: not before a checkpoint is really read
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    needed = ("token_embedding.weight", "positional_embedding", "text_projection", "logit_scale")
    missing = [name for name in (*needed, "ln_final.weight") if name not in state]
    if missing:
        raise CheckpointError(
            f"{place} is not a CLIP in OpenAI's layout: it lacks {', '.join(missing)}. If it is a "
            "model of open_clip, name its architecture: load_backbone(NAME, pretrained=FILE)"
        )
    try:
        vision, text = _vision_sizes(state), _text_sizes(state, config)
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise _unfit(place, error) from error
    if text["context_length"] > MAX_CONTEXT:
        raise CheckpointError(
            f"{place}: a context of {text['context_length']} tokens; at most {MAX_CONTEXT} are "
            "supported, and CLIP has 77"
        )
    vision = _merged(CLIPVisionCfg, "vision_cfg", vision, config, source)
    text = _merged(CLIPTextCfg, "text_cfg", text, config, source)
    preprocess = Preprocess.from_open_clip(
        config.get("preprocess") or {}, vision["image_size"], source or place, CheckpointError
    )

    try:
        with _WithoutDraws():
            model = CLIP(
                embed_dim=state["text_projection"].shape[1],
                vision_cfg=CLIPVisionCfg(**vision),
                text_cfg=CLIPTextCfg(**text),
                quick_gelu=config.get("quick_gelu", True),
            )
        _compare(model, state)
        model.load_state_dict(state)
    except Exception as error:  # open_clip raises many kinds on a bad configuration
        raise _unfit(place, error) from error
    return model, preprocess


_DRAWS = {
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_),
}


class _WithoutDraws(TorchFunctionMode):
    """Random initial weights are not drawn: the values of a file take their places.

    It is most of the time that a model takes to load, the global generator stays as it was, and
    memory is not touched before names and shapes were compared. (The meta device would not even
    ask for it, and imports torch's compiler, which takes longer than all the rest.)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.randn:
            func = torch.empty
        return func(*args, **(kwargs or {}))


def _unfit(place: str, error: Exception) -> CheckpointError:
    reason = first_line(error, 200)
    if isinstance(error, KeyError):
        reason = f"it lacks {reason}"
    return CheckpointError(
        f"the weights in {place} do not fit a CLIP of the sizes they imply: {reason}"
    )


def _compare(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted({*wanted, *state}):
        if name not in state and name.endswith("num_batches_tracked"):
            continue  # of training; torch does without it, and so do the oldest files
        have = tuple(state[name].shape) if name in state else None
        if wanted.get(name) != have:
            raise ValueError(f"'{name}' has shape {have}, expected {wanted.get(name)}")


def _merged(
    cls: type, part: str, sizes: dict[str, Any], config: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Sizes read off the weights, and the flags of a configuration."""
    merged, known = dict(sizes), {field.name for field in dataclasses.fields(cls)}
    for key, value in (config.get(part) or {}).items():
        where = f"{source}: {part}.{key} is {shown(value)}"
        if value is None or (key not in known and not key.startswith(_PLACES)):
            continue
        if key.startswith(_PLACES):
            if not value or key not in _named_places(config):
                continue
            raise CheckpointError(
                f"{where}; a file beside a checkpoint gives sizes and flags, and never names "
                "something to load. Name the architecture instead: load_backbone(NAME, "
                "pretrained=FILE)"
            )
        if key in _SIZES_OF_WEIGHTS and key in sizes:
            told = sizes[key]
            if (_flat(value) != _flat(told)) or isinstance(value, bool):
                raise CheckpointError(
                    f"{where}, and the weights have {told}; correct the file, or leave it out"
                )
            continue
        merged[key] = value
    return merged


def _named_places(config: Mapping[str, Any]) -> set[str]:
    """Keys of a configuration that make open_clip load something from elsewhere.

    timm_pool and its like are mere flags, but of no use without the model that is refused.
    """
    keys = {*(config.get("vision_cfg") or {}), *(config.get("text_cfg") or {})}
    return {k for k in keys if k.startswith(_PLACES) and re.search("name|pretrained|kwargs", k)}


def _flat(value: Any) -> Any:
    """Lists as tuples, and the side of a square for (height, width)."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value


def _text_sizes(state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
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

"""Hugging Face's layout of a CLIP: its weights under OpenAI's names, its JSON files as settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openood_interneg.settings import shown
from openood_interneg.vlm.clip_weights import CheckpointError
from openood_interneg.vlm.preprocess import Preprocess

HF_CONFIG, HF_PREPROCESS = "config.json", "preprocessor_config.json"

# What transformers' CLIPConfig has where a file leaves it out.
_DEFAULTS = {
    "text": {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "vision": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # name -> OpenAI's quick GELU
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers

_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def is_hugging_face(names: Mapping[str, Any]) -> bool:
    """Whether these are names of weights of transformers' CLIPModel."""
    return "text_model.embeddings.token_embedding.weight" in names


def openai_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' CLIPModel under OpenAI's names.

    Args:
        state: names and tensors of a CLIPModel.

    Raises:
        CheckpointError: a name that no CLIPModel has, or an attention layer that is not whole.
    """
    out: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):  # 0, 1, 2, ...
            continue
        found = _LAYER.fullmatch(name)
        if name in _NAMES:
            out[_NAMES[name]] = tensor.reshape(()) if name == "logit_scale" else tensor
        elif name in _TRANSPOSED:
            out[_TRANSPOSED[name]] = tensor.t().contiguous()
        elif found and found[3] in _BLOCK:
            tower = _TOWERS[found[1]]
            out[f"{tower}.resblocks.{found[2]}.{_BLOCK[found[3]]}.{found[4]}"] = tensor
        elif found and found[3] in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            tower = _TOWERS[found[1]]
            whole = f"{tower}.resblocks.{found[2]}.attn.in_proj_{found[4]}"
            qkv.setdefault(whole, {})[found[3][10]] = tensor
        else:
            raise CheckpointError(f"{shown(name)} is no weight of transformers' CLIPModel")
    for name, parts in qkv.items():
        if len(parts) < 3:
            raise CheckpointError(f"the weights lack a part of {name}: they have {sorted(parts)}")
        out[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return out


def is_plain_clip(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of a CLIPModel that our towers compute exactly."""
    parts = [_part(config, name) for name in ("text", "vision")]
    acts = {part["hidden_act"] for part in parts}
    eps = {part["layer_norm_eps"] for part in parts}
    plain = len(acts) == 1 and acts <= set(_ACTIVATIONS) and eps == {1e-5}
    return config.get("model_type") == "clip" and plain


def clip_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What `build_clip` needs beside the weights, from a CLIPModel's configuration.

    Raises:
        CheckpointError: a configuration that OpenAI's architecture does not have.
    """
    if not is_plain_clip(config):
        raise CheckpointError(
            f"{source} is not the configuration of a plain CLIPModel (model_type "
            f"{shown(config.get('model_type'))}); load its folder: load_backbone(FOLDER)"
        )
    text, vision = (_part(config, name) for name in ("text", "vision"))
    width = vision.get("hidden_size", 768)
    return {
        "quick_gelu": _ACTIVATIONS[text["hidden_act"]],
        "text_cfg": {"heads": text["num_attention_heads"]} | _ratio(text),
        "vision_cfg": {"head_width": width // vision["num_attention_heads"]} | _ratio(vision),
    }


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    own = config.get(f"{name}_config") or config.get(f"{name}_config_dict") or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{name}_config is {shown(own)}; it maps names to values")
    return _DEFAULTS[name] | {key: value for key, value in own.items() if value is not None}


def _ratio(part: Mapping[str, Any]) -> dict[str, float]:
    inner, width = part.get("intermediate_size"), part.get("hidden_size")
    return {"mlp_ratio": inner / width} if inner and width else {}


def hf_preprocess(config: Mapping[str, Any], size: int, source: str) -> Preprocess:
    """The preprocessing of an image processor's configuration.

    Args:
        config: of `preprocessor_config.json`.
        size: side of the images that the image tower takes.
        source: named in errors.

    Raises:
        CheckpointError: one that does not give squares of this size, or another resampling.
    """
    if config.get("do_resize", True) is False or config.get("do_normalize", True) is False:
        raise CheckpointError(f"{source}: images that are not resized and normalised")
    resample = config.get("resample", 3)
    if resample not in _RESAMPLE:
        raise CheckpointError(
            f"{source}: resample is {shown(resample)}; 2 (bilinear) and 3 (bicubic) are supported"
        )
    crops = config.get("do_center_crop", "crop_size" in config)
    given = config.get("size", size)
    sides = dict(given) if isinstance(given, Mapping) else {"shortest_edge": given}
    common: dict[str, Any] = {"interpolation": _RESAMPLE[resample], "size": size}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(theirs) is not None:
            common[ours] = tuple(config[theirs])
    if "shortest_edge" in sides and (crops or sides["shortest_edge"] is None):
        crop = config.get("crop_size") or size
        crop = crop.get("height", size) if isinstance(crop, Mapping) else crop
        resize = sides["shortest_edge"] or size
        if crop == size:
            return Preprocess(**common, resize=None if resize == size else resize)
    elif sides.get("height") == sides.get("width") == size:
        return Preprocess(**common, resize_mode="squash")
    raise CheckpointError(
        f"{source}: images become {shown(sides)}, crop {shown(config.get('crop_size'))}; the image "
        f"tower takes squares of {size}"
    )

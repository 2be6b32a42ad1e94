"""Learned prompts and text towers of other methods: from their checkpoints to text features.

A learned prompt is a row of context vectors that stand where words would: "[v1] ... [vn] cat."
They are evaluated by the text tower of the backbone with those vectors in place of tokens, as the
inversion does with its pseudo-tokens. The backbone must be the one that they were trained with;
a tower of another width is refused, but another model of the same width is not recognised.

Checkpoints are safetensors files, or files of plain tensors that torch reads with
`weights_only=True`: nothing in them is executed. Nested dictionaries are read as dotted names
("state_dict.ctx"), a tensor is found by the end of its name, and everything else in a file
(optimizer, token_prefix and token_suffix, which hold the trainer's class names) is left alone.
Training checkpoints of the Dassl toolbox may pickle their scheduler besides; such a file is
refused, and `torch.save({"state_dict": torch.load(file, weights_only=False)["state_dict"]}, new)`
on a machine that trusts it leaves the tensors.

C classes, n context vectors, width w of the text tower:

======================  ==========================================================  ==============
method                  tensors                                                      known from
======================  ==========================================================  ==============
LoCoOp                  ctx (n, w) or (C, n, w)                                      its code
LAPT                    ctx, ood_ctx: each (n, w)                                    its code
NegPrompt               ctx_positive (1, n, w) or (C, 1, n, w);                      its code
                        ctx_negative (k, n, w) or (C, k, n, w)
Local-Prompt            local_ctx (C, n, w); neg_ctx (k, n, w)                       its code
LSN                     yes.ctx (n, w); no1.ctx, no2.ctx, ... each (C, n, w)         ours: its code
                                                                                     saves nothing
ID-Like                 prompt_learner_state_dict.ctx (n, w) or (C, n, w);           outer names:
                        ex_prompt_learner_state_dict.ctx (k, n, w), and .cls         its code;
                        (k, m, w) where the class token is learned too               inner: assumed
SUPREME                 text_prototypes (C, D), image_prototypes (C, D), and         ours: no code
                        image_to_text (D, D) where there is one                      was at hand
CLIPN                   the "no" tower: token_embedding_no.weight,                   its code
                        positional_embedding_no, transformer_no.resblocks.*,
                        ln_final_no.*, text_projection_no, prompt_no (16, 77, w)
======================  ==========================================================  ==============

None of the published files was at hand: the layouts are those of the public code that writes
them, or where the table says so a layout of our own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import fill
from openood_interneg.vlm.pseudo_prompts import PLACEHOLDER, placeholder_ids, pseudo_prompts
from openood_interneg.vlm.tensor_files import read_tensors
from openood_interneg.vlm.text_tower import CausalTextTower
from openood_interneg.vlm.tower_weights import causal_source

NOT_GIVEN = "none"
PROMPTS_PER_BATCH = 512

ClassPosition = Literal["end", "front"]


class TrainedPromptError(SettingsError):
    """A checkpoint that is missing, unreadable, or does not fit the backbone and the classes."""


# ---- files ---------------------------------------------------------------------------------


def read_checkpoint(path: str | Path, setting: str = "checkpoint") -> dict[str, Tensor]:
    """All tensors of a file by dotted name, float32, on the CPU.

    Args:
        path: the file; "none" means that none was given.
        setting: named in errors.

    Raises:
        TrainedPromptError: no file given, or one that is absent or not plain tensors.
    """
    if str(path) == NOT_GIVEN:
        raise TrainedPromptError(
            f"this method needs learned prompts: set {setting} to the path of its checkpoint "
            "(safetensors, or a torch file of plain tensors)"
        )
    path = Path(path).expanduser()
    try:
        tensors = read_tensors(path, TrainedPromptError)
    except TrainedPromptError as error:
        raise TrainedPromptError(f"{setting}: {error}") from error.__cause__
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    if not tensors:
        raise TrainedPromptError(f"{setting}: {path} holds no tensors by name")
    return tensors


@overload
def pick(
    tensors: Mapping[str, Tensor], name: str, *, optional: Literal[False] = False
) -> Tensor: ...


@overload
def pick(tensors: Mapping[str, Tensor], name: str, *, optional: bool) -> Tensor | None: ...


def pick(tensors: Mapping[str, Tensor], name: str, *, optional: bool = False) -> Tensor | None:
    """The tensor whose dotted name is `name` or ends with it.

    Raises:
        TrainedPromptError: none (unless optional), or several.
    """
    found = [key for key in tensors if key == name or key.endswith(f".{name}")]
    if len(found) > 1:
        found = [key for key in found if key == name] or found
    if len(found) == 1:
        return tensors[found[0]]
    if not found and optional:
        return None
    raise TrainedPromptError(
        f"the checkpoint has {'no' if not found else 'several'} '{name}'; it holds "
        f"{', '.join(sorted(tensors)[:8])}{', ...' if len(tensors) > 8 else ''}"
    )


# ---- prompts -------------------------------------------------------------------------------


@torch.no_grad()
def learned_prompts(
    backbone: Backbone,
    context: Tensor,
    names: Sequence[str],
    *,
    position: ClassPosition = "end",
    stop: str = ".",
) -> Tensor:
    """Text features of names behind (or before) learned context vectors.

    The prompt is "[v1] ... [vn] name." (`end`) or "name [v1] ... [vn]." (`front`); underscores
    in names become spaces, as the trainers have it.

    Args:
        context: (n, width) for all names, or (len(names), n, width).
        names: may be empty strings, for prompts of context alone.
        stop: what ends the prompt; NegPrompt has no full stop.

    Returns:
        (len(names), D) float32 unit rows on the backbone's device.

    Raises:
        TrainedPromptError: context vectors of another tower or another number of classes.
    """
    tower = backbone.text_tower
    if context.dim() not in (2, 3) or context.shape[-1] != tower.width:
        raise TrainedPromptError(
            f"context vectors have shape {tuple(context.shape)}; the text tower of "
            f"{backbone.name} takes vectors of size {tower.width}: they were trained with "
            "another backbone"
        )
    if context.dim() == 3 and len(context) != len(names):
        raise TrainedPromptError(
            f"the checkpoint has context vectors of {len(context)} classes, there are "
            f"{len(names)} class names"
        )
    count = context.shape[-2]
    context = context.to(tower.device).expand(len(names), -1, -1)
    slots = " ".join([PLACEHOLDER] * count)
    placeholder = _placeholder(backbone)
    parts = []
    for start in range(0, len(names), PROMPTS_PER_BATCH):
        chunk = [name.replace("_", " ") for name in names[start : start + PROMPTS_PER_BATCH]]
        # Behind a placeholder the stop needs a space, or the tokenizer takes both for one token.
        template = f"{slots} {{}}{stop}" if position == "end" else f"{{}} {slots} {stop}"
        texts = [fill(template, name) for name in chunk]
        prompts = pseudo_prompts(tower, backbone.tokenizer(texts), count, placeholder)
        index = torch.arange(len(chunk), device=tower.device)
        parts.append(prompts.embed(index, context[start : start + len(chunk)]))
    return torch.cat(parts)


def _placeholder(backbone: Backbone) -> int:
    """Id of the token that learned vectors replace."""
    found = set(placeholder_ids(backbone.tokenizer))
    if len(found) != 1:
        raise TrainedPromptError(
            f"the tokenizer of {backbone.name} splits '{PLACEHOLDER}', which stands for learned "
            "vectors, into several tokens"
        )
    return found.pop()


# ---- CLIPN's second text tower -------------------------------------------------------------


@torch.no_grad()
def no_features(
    backbone: Backbone,
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    templates: Sequence[str],
) -> Tensor:
    """Features of names under CLIPN's "no" tower, averaged over templates.

    At test time the mean of the learned `prompt_no` is added at every position. That is the same
    as adding it to the positional embedding, so the tower is a plain CLIP text tower. The authors
    average the lines of a prompt file of their own: see `CLIPNSettings`.

    Returns:
        (len(names), D) float32 unit rows on the backbone's device.

    Raises:
        TrainedPromptError: tensors missing or of other sizes than the backbone's text tower.
    """
    found = causal_source(backbone.model)
    if found is None:
        raise TrainedPromptError(f"the text tower of {backbone.name} is not CLIP's causal one")
    source: Any = found[0]
    text = nn.Module()
    for name in ("token_embedding", "transformer", "ln_final"):
        part = copy.deepcopy(getattr(source, name))
        _load(part, tensors, f"{name}_no")
        setattr(text, name, part)
    position = pick(tensors, "positional_embedding_no")
    shift = pick(tensors, "prompt_no", optional=True)
    if shift is not None:
        if shift.shape[1:] != position.shape:
            raise TrainedPromptError(
                f"prompt_no has shape {tuple(shift.shape)}; expected (m, {position.shape[0]}, "
                f"{position.shape[1]})"
            )
        position = position + shift.mean(dim=0)
    projection = pick(tensors, "text_projection_no")
    if position.shape != source.positional_embedding.shape:
        raise TrainedPromptError(
            f"positional_embedding_no has shape {tuple(position.shape)}; the text tower of "
            f"{backbone.name} has {tuple(source.positional_embedding.shape)}"
        )
    text.positional_embedding = nn.Parameter(position.to(backbone.device), requires_grad=False)
    text.text_projection = nn.Parameter(projection.to(backbone.device), requires_grad=False)
    tower = CausalTextTower(text, found[1], backbone.dtype)
    features = []
    for template in templates:
        tokens = backbone.tokenizer([fill(template, name) for name in names])
        features.append(torch.cat([tower.encode(part) for part in tokens.split(256)]))
    return F.normalize(functools.reduce(torch.add, features), dim=-1)


def _load(part: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    found = {}
    for key, value in tensors.items():
        before, middle, after = key.rpartition(f"{name}.")
        if middle and (not before or before.endswith(".")):
            found[after] = value
    try:
        part.load_state_dict(found)
    except RuntimeError as error:
        raise TrainedPromptError(
            f"the checkpoint's {name} does not fit the backbone's text tower: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error

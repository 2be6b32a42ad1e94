"""Models by open_clip's names: with its tags, with a weights file, or from a folder or the hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from openood_interneg.settings import InternegError, first_line
from openood_interneg.vlm.checkpoints import (
    OPEN_CLIP_CONFIG,
    CheckpointError,
    own_preprocess,
    read_config,
)
from openood_interneg.vlm.loaders.base import (
    CHECKPOINT_SUFFIXES,
    LoadedModel,
    Loader,
    WeightsError,
    register_loader,
)
from openood_interneg.vlm.loaders.open_clip_hub import (
    FOLDER,
    HUB,
    fail_fast_offline,
    no_weights_message,
    open_clip_tokenizer,
    placed_config,
)
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tensor_files import read_tensors
from openood_interneg.vlm.tokenizers import Tokenizer

# The paper's backbones (Table 10). OpenAI's weights were trained with the quick GELU.
OPENAI_BACKBONES = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
}

_BIG_VISION = (".npz", ".npy")  # open_clip reads these without unpickling


@register_loader
class OpenClipLoader(Loader):
    """Any other name: open_clip's, with its tags, with a weights file, from a folder or the hub."""

    priority = 90

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        return isinstance(source, str)

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        return load_open_clip(str(source), pretrained, own_tokenizer=own_tokenizer)


def load_open_clip(
    text: str, pretrained: str | Path | None, *, own_tokenizer: bool = True
) -> LoadedModel:
    """A model with its tokenizer (None unless `own_tokenizer`).

    Args:
        text: one of `OPENAI_BACKBONES`, open_clip's name of an architecture, or `hf-hub:` or
            `local-dir:` and a place.
        pretrained: a tag of open_clip's or a weights file.

    Raises:
        WeightsError, CheckpointError, MissingPackageError: see `load_backbone`.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    placed = text.startswith((HUB, FOLDER))
    if pretrained is None and not placed:
        pretrained = "openai"
        if text not in OPENAI_BACKBONES:
            known = ", ".join([*OPENAI_BACKBONES, "miniature"])
            raise WeightsError(
                f"unknown backbone '{text}'; known: {known}. Any other open_clip model needs "
                "its pretrained tag (--pretrained laion2b_s34b_b88k), a local file its ending "
                f"({', '.join(CHECKPOINT_SUFFIXES)})"
            )
    elif pretrained is not None and placed:
        raise WeightsError(f"'{text}' has weights of its own; leave pretrained={pretrained} out")
    name = text.replace("/", "-")
    if not placed and name not in open_clip.list_models():
        raise WeightsError(
            f"open_clip has no model '{text}'; `python -c 'import open_clip; "
            "print(open_clip.list_models())'` lists them"
        )
    tokenizer: Tokenizer | None = None
    tag = {} if placed else get_pretrained_cfg(name, str(pretrained))
    if placed or tag:
        architecture = text if placed else name
        force = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
        with fail_fast_offline():
            try:
                config: Any = placed_config(text) if placed else open_clip.get_model_config(name)
                if own_tokenizer:
                    tokenizer = open_clip_tokenizer(architecture, config, text)
                model = open_clip.create_model(
                    architecture,
                    pretrained=None if placed else str(pretrained),
                    precision="fp32",
                    require_pretrained=True,  # or random weights, with a line in a log
                    **force,
                )
            except InternegError:
                raise
            except Exception as error:  # hub clients raise many kinds
                raise WeightsError(no_weights_message(text, pretrained, error)) from error
        label = text if placed or pretrained == "openai" else f"{text} {pretrained}"
        return LoadedModel(model, own_preprocess(model), label, tokenizer)

    assert pretrained is not None
    file = Path(pretrained).expanduser()
    if not file.exists() and file.suffix not in (*CHECKPOINT_SUFFIXES, *_BIG_VISION):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise WeightsError(
            f"open_clip has no weights '{pretrained}' of {text}, and there is no such file; its "
            f"tags: {', '.join(tags) or 'none'}"
        )
    architecture = OPENAI_BACKBONES.get(text, name)
    if own_tokenizer:
        with fail_fast_offline():
            config = open_clip.get_model_config(architecture)
            tokenizer = open_clip_tokenizer(architecture, config, text)
    model, preprocess = _from_file(file, architecture, text)
    return LoadedModel(model, preprocess, f"{text} {pretrained}", tokenizer)


def _from_file(file: Path, architecture: str, text: str) -> tuple[nn.Module, Preprocess]:
    """A named architecture with the weights of a file, and its preprocessing."""
    import open_clip

    config, source = read_config(file)
    if file.suffix not in _BIG_VISION:
        read_tensors(file, CheckpointError)  # open_clip's own reader checks nothing
    quick = config.get("quick_gelu")
    told = quick is not None or text in OPENAI_BACKBONES
    if not told and f"{architecture}-quickgelu" in open_clip.list_models():
        warnings.warn(
            f"{file}: nothing says which activation these weights were trained with; open_clip's "
            f"{architecture} has GELU. For OpenAI's weights use {architecture}-quickgelu; or write "
            f'{{"quick_gelu": false}}, or true, into {file.with_suffix(".json").name} beside it',
            stacklevel=5,
        )
    options: dict[str, Any] = {} if quick is None else {"quick_gelu": quick}
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=str(file),
            precision="fp32",
            require_pretrained=True,
            **options,
        )
    except Exception as error:  # open_clip raises many kinds on names and shapes that do not fit
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights in {file} do not fit open_clip's {architecture}: "
            f"{first_line(RuntimeError(said), 240)}"
        ) from error
    given = config.get("preprocess") or _tags_preprocess(architecture, file, text)
    size = model.visual.image_size
    return model, Preprocess.from_open_clip(given, size, source or str(file), CheckpointError)


def _tags_preprocess(architecture: str, file: Path, text: str) -> dict[str, Any]:
    """The preprocessing that all of open_clip's weights of an architecture share; CLIP's if not."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    keys = ("mean", "std", "interpolation", "resize_mode")
    found = []
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        config = get_pretrained_cfg(architecture, tag)
        kept = {key: config[key] for key in keys if config.get(key) is not None}
        if kept not in found:
            found.append(kept)
    if len(found) == 1:
        return found[0]
    if found and text not in OPENAI_BACKBONES:
        warnings.warn(
            f"{file}: weights of {architecture} come with {len(found)} preprocessings, and "
            f"nothing says which is this file's; CLIP's is used. An {OPEN_CLIP_CONFIG} beside the "
            "file would tell",
            stacklevel=6,
        )
    return {}

"""Models by open_clip's names: with its tags, with a weights file, or from a folder or the hub."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from openood_interneg.settings import (
    InternegError,
    first_line,
    require_package,
    shown,
)
from openood_interneg.vlm.checkpoints import (
    OPEN_CLIP_CONFIG,
    CheckpointError,
    read_config,
)
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tensor_files import read_tensors
from openood_interneg.vlm.text_files import read_json
from openood_interneg.vlm.tokenizers import Tokenizer

# The paper's backbones (Table 10). OpenAI's weights were trained with the quick GELU.
OPENAI_BACKBONES = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
}

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_BIG_VISION = (".npz", ".npy")  # open_clip reads these without unpickling

_HUB, _FOLDER = "hf-hub:", "local-dir:"
# Flags of open_clip's tokenizers; anything else goes to a loader that may run a repository's code.
_TOKENIZER_FLAGS = {"clean", "strip_sep_token", "reduction_mask", "language"}


class WeightsError(InternegError, RuntimeError):
    """Pretrained weights that cannot be had here, with what to do about it."""


def load_open_clip(
    text: str, pretrained: str | Path | None, *, own_tokenizer: bool = True
) -> tuple[nn.Module, Preprocess, Tokenizer | None, str]:
    """A model, its preprocessing, its tokenizer (None unless `own_tokenizer`), and its label.

    Args:
        text: one of `OPENAI_BACKBONES`, open_clip's name of an architecture, or `hf-hub:` or
            `local-dir:` and a place. pretrained: a tag of open_clip's or a weights file.

    Raises:
        WeightsError, CheckpointError, MissingPackageError: see `load_backbone`.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    placed = text.startswith((_HUB, _FOLDER))
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
    tag = {} if placed else get_pretrained_cfg(name, str(pretrained))
    if placed or tag:
        architecture = text if placed else name
        force = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
        with _fail_fast_offline():
            try:
                config = _placed_config(text) if placed else open_clip.get_model_config(name)
                tokenizer = _tokenizer(architecture, config, text) if own_tokenizer else None
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
                raise WeightsError(_no_weights(text, pretrained, error)) from error
        label = text if placed or pretrained == "openai" else f"{text} {pretrained}"
        return model, own_preprocess(model), tokenizer, label

    file = Path(pretrained).expanduser()
    if not file.exists() and file.suffix not in (*CHECKPOINT_SUFFIXES, *_BIG_VISION):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise WeightsError(
            f"open_clip has no weights '{pretrained}' of {text}, and there is no such file; its "
            f"tags: {', '.join(tags) or 'none'}"
        )
    architecture = OPENAI_BACKBONES.get(text, name)
    tokenizer = None
    if own_tokenizer:
        with _fail_fast_offline():
            config = open_clip.get_model_config(architecture)
            tokenizer = _tokenizer(architecture, config, text)
    model, preprocess = _from_file(file, architecture, text)
    return model, preprocess, tokenizer, f"{text} {pretrained}"


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
            stacklevel=4,
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
    except Exception as error:  # names, shapes, and whatever else open_clip stumbles over
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
            stacklevel=5,
        )
    return {}


def _placed_config(text: str) -> Mapping[str, Any]:
    """The model configuration of `hf-hub:` or `local-dir:`, once it was seen to be harmless."""
    if text.startswith(_FOLDER):
        path = Path(text.removeprefix(_FOLDER)) / OPEN_CLIP_CONFIG
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(text.removeprefix(_HUB), OPEN_CLIP_CONFIG))
    content = read_json(path, CheckpointError)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    blocks = [config.get(k) for k in ("vision_cfg", "text_cfg")] if isinstance(config, dict) else []
    if not blocks or not all(isinstance(block, dict) for block in blocks):
        raise CheckpointError(f"{path} must hold a model_cfg with vision_cfg and text_cfg")
    vision, language = blocks
    timm = vision.get("timm_model_name")
    if timm is not None and not (isinstance(timm, str) and re.fullmatch(r"[\w.]+", timm)):
        raise CheckpointError(
            f"{path}: timm_model_name is {shown(timm)}, a place to load from; it may only be the "
            "name of a model that timm itself defines"
        )
    if language.get("hf_model_name") and text.startswith(_FOLDER):
        raise CheckpointError(
            f"{path}: hf_model_name is {shown(language['hf_model_name'])}, a place to load from; "
            "nothing in a local folder may open the network. Use open_clip's own name of the "
            "architecture with pretrained=FILE"
        )
    flags = language.get("tokenizer_kwargs") or {}
    if not isinstance(flags, dict) or not _TOKENIZER_FLAGS.issuperset(flags):
        raise CheckpointError(
            f"{path}: tokenizer_kwargs is {shown(flags)}; only "
            f"{', '.join(sorted(_TOKENIZER_FLAGS))} are taken from a file"
        )
    return config


def _tokenizer(architecture: str, config: Mapping[str, Any], text: str) -> Tokenizer:
    """open_clip's tokenizer of a model, before its weights are fetched."""
    import open_clip

    language = config["text_cfg"]
    if language.get("hf_tokenizer_name") or language.get("hf_model_name"):
        require_package("transformers", "transformers", f"the tokenizer of {text}")
    try:
        return open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise WeightsError(
            f"the tokenizer of {text} is not on this machine and could not be downloaded "
            f"({_reason(error)}). Let the download through (`hf auth login`, HF_ENDPOINT, or a "
            "filled HF_HOME from another machine), or pass load_backbone(..., tokenizer=...)"
        ) from error


@contextlib.contextmanager
def _fail_fast_offline():
    """Where the hub's name does not resolve, look in the local cache only.

    Without this the hub's client retries for about a minute before it says the same thing.
    """
    import logging
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    quiet = logging.root.manager.disable
    logging.disable(logging.ERROR)  # the one error raised from here says it all
    try:
        yield
    finally:
        logging.disable(quiet)
        constants.HF_HUB_OFFLINE = offline


def own_preprocess(model: nn.Module) -> Preprocess:
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


def _reason(error: Exception) -> str:
    """What a hub client's error says at its core; open_clip and the hub wrap one in another."""
    said = " ".join(str(error).split()).rpartition("Last error: ")[2]
    return first_line(RuntimeError(said), 240) if said else type(error).__name__


def _no_weights(text: str, pretrained: str | Path | None, error: Exception) -> str:
    which = "weights" if pretrained is None else f"weights '{pretrained}'"
    return (
        f"the {which} of {text} are not on this machine and could not be downloaded "
        f"({_reason(error)}).\n"
        "Three remedies:\n"
        "  1. let the download through: `hf auth login`, or set HF_ENDPOINT to a mirror\n"
        "     you can reach, or copy a filled HF_HOME from another machine;\n"
        "  2. pass a local checkpoint: --backbone /path/to/clip.safetensors (OpenAI's layout), or\n"
        f"     --backbone {text} --pretrained /path/to/file for other open_clip models;\n"
        "  3. use the embedded miniature: --backbone miniature (or `interneg demo`)."
    )

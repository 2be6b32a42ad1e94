"""Checks on what open_clip downloads by name, and the messages when a download fails."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openood_interneg.settings import first_line, require_package, shown
from openood_interneg.vlm.checkpoints import OPEN_CLIP_CONFIG, CheckpointError
from openood_interneg.vlm.loaders.base import WeightsError
from openood_interneg.vlm.text_files import read_json
from openood_interneg.vlm.tokenizers import Tokenizer

HUB, FOLDER = "hf-hub:", "local-dir:"
# Flags of open_clip's tokenizers; anything else goes to a loader that may run a repository's code.
_TOKENIZER_FLAGS = {"clean", "strip_sep_token", "reduction_mask", "language"}


def placed_config(text: str) -> Mapping[str, Any]:
    """The model configuration of `hf-hub:` or `local-dir:`, once it was seen to be harmless."""
    if text.startswith(FOLDER):
        path = Path(text.removeprefix(FOLDER)) / OPEN_CLIP_CONFIG
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(text.removeprefix(HUB), OPEN_CLIP_CONFIG))
    content = read_json(path, CheckpointError)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not all(
        isinstance(config.get(name), dict) for name in ("vision_cfg", "text_cfg")
    ):
        raise CheckpointError(f"{path} must hold a model_cfg with vision_cfg and text_cfg")
    vision, language = config["vision_cfg"], config["text_cfg"]
    timm = vision.get("timm_model_name")
    if timm is not None and not (isinstance(timm, str) and re.fullmatch(r"[\w.]+", timm)):
        raise CheckpointError(
            f"{path}: timm_model_name is {shown(timm)}, a place to load from; it may only be the "
            "name of a model that timm itself defines"
        )
    if language.get("hf_model_name") and text.startswith(FOLDER):
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


def open_clip_tokenizer(architecture: str, config: Mapping[str, Any], text: str) -> Tokenizer:
    """open_clip's tokenizer of a model, before its weights are fetched."""
    import open_clip

    language = config["text_cfg"]
    if language.get("hf_tokenizer_name") or language.get("hf_model_name"):
        require_package("transformers", "'openood-interneg[hf]'", f"the tokenizer of {text}")
    try:
        return open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise WeightsError(
            f"the tokenizer of {text} is not on this machine and could not be downloaded "
            f"({_reason(error)}). Let the download through (`hf auth login`, HF_ENDPOINT, or a "
            "filled HF_HOME from another machine), or pass load_backbone(..., tokenizer=...)"
        ) from error


@contextlib.contextmanager
def fail_fast_offline() -> Iterator[None]:
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


def _reason(error: Exception) -> str:
    """What a hub client's error says at its core; open_clip and the hub wrap one in another."""
    said = " ".join(str(error).split()).rpartition("Last error: ")[2]
    return first_line(RuntimeError(said), 240) if said else type(error).__name__


def no_weights_message(text: str, pretrained: str | Path | None, error: Exception) -> str:
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

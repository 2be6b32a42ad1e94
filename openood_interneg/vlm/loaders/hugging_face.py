"""Hugging Face's models: a folder, a name of the hub, or an object of transformers."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from openood_interneg.settings import first_line, require_package
from openood_interneg.vlm.checkpoints import read_state_dict
from openood_interneg.vlm.clip_weights import CheckpointError, build_clip
from openood_interneg.vlm.dual_encoder import (
    dual_encoder,
    from_folder,
    hf_tokenizer,
)
from openood_interneg.vlm.hf_layout import (
    HF_CONFIG,
    HF_PREPROCESS,
    clip_config,
    hf_preprocess,
    is_plain_clip,
    openai_layout,
)
from openood_interneg.vlm.loaders.base import LoadedModel, Loader, WeightsError, register_loader
from openood_interneg.vlm.loaders.open_clip_hub import fail_fast_offline
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.text_files import read_json_object
from openood_interneg.vlm.tokenizers import CLIP_VOCABULARY, byte_pairs

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX = "model.safetensors.index.json"
_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
)


@register_loader
class HuggingFaceLoader(Loader):
    """A folder with a config.json, "owner/name" of the hub, or a model object of transformers."""

    priority = 5

    def accepts(self, source: str | nn.Module, pretrained: str | Path | None) -> bool:
        if isinstance(source, nn.Module):
            return type(source).__module__.startswith("transformers.")
        if pretrained is not None:
            return False
        folder = Path(source).expanduser()
        if folder.is_dir():
            return (folder / HF_CONFIG).is_file()
        # ViT-B/16 and its like are names of the paper's, not of the hub.
        return bool(_NAME.fullmatch(source)) and not re.match(r"(ViT|RN)[-\d]", source)

    def load(
        self, source: str | nn.Module, pretrained: str | Path | None, *, own_tokenizer: bool
    ) -> LoadedModel:
        """The model; a CLIP becomes open_clip's, any other dual encoder goes through an adapter.

        Raises:
            CheckpointError: an unreadable folder, or no dual encoder.
            WeightsError: a name of the hub that is neither here nor can be downloaded.
            MissingPackageError: it needs transformers.
        """
        if isinstance(source, nn.Module):
            return _of_object(source)
        folder = Path(source).expanduser()
        if not folder.is_dir():
            folder = _from_hub(source)
        return _of_folder(folder, source if _NAME.fullmatch(source) else folder.name)


def _of_folder(folder: Path, label: str) -> LoadedModel:
    config = read_json_object(folder / HF_CONFIG, CheckpointError)
    if is_plain_clip(config) and _has_clips_tokenizer(folder, config):
        state = openai_layout(_weights(folder))
        model, preprocess = build_clip(
            state, clip_config(config, str(folder)), str(folder), str(folder / HF_CONFIG)
        )
        return LoadedModel(model, _preprocess(folder, preprocess.size), label)
    require_package("transformers", "'openood-interneg[hf]'", f"the model in {folder}")
    model, tokenizer = from_folder(str(folder), config)
    adapted = dual_encoder(model, config)
    texts = hf_tokenizer(tokenizer, adapted)
    return LoadedModel(adapted, _preprocess(folder, adapted.image_size), label, texts)


def _of_object(model: nn.Module) -> LoadedModel:
    """A model of transformers; it stays as it is, and its tokenizer and processor come apart."""
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    label = str(config.get("_name_or_path") or type(model).__name__)
    if is_plain_clip(config):
        state = {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}
        built, preprocess = build_clip(openai_layout(state), clip_config(config, label), label)
        return LoadedModel(built, preprocess, label)
    adapted = dual_encoder(copy.deepcopy(model).float(), config)
    return LoadedModel(adapted, None, label)


def _preprocess(folder: Path, size: int) -> Preprocess:
    path = folder / HF_PREPROCESS
    if not path.is_file():
        return Preprocess(size=size)
    return hf_preprocess(read_json_object(path, CheckpointError), size, str(path))


def _weights(folder: Path) -> dict[str, Any]:
    """All weights of a folder, float32: one file, or the parts that an index names.

    Raises:
        CheckpointError: none, or a part that is not there or not of this folder.
    """
    index = folder / _INDEX
    if index.is_file():
        parts = read_json_object(index, CheckpointError).get("weight_map")
        if not isinstance(parts, Mapping) or not all(
            isinstance(part, str) and Path(part).name == part for part in parts.values()
        ):
            raise CheckpointError(f"{index} must map names of weights to files of its folder")
        state: dict[str, Any] = {}
        for part in sorted(set(parts.values())):
            state |= read_state_dict(folder / part)
        return state
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_state_dict(folder / name)
    raise CheckpointError(
        f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin"
    )


def _has_clips_tokenizer(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the texts of a folder's model are CLIP's byte pairs, as far as the folder tells."""
    if (config.get("text_config") or {}).get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY:
        return False
    vocabulary: Any = None
    if (path := folder / "vocab.json").is_file():
        vocabulary = read_json_object(path, CheckpointError)
    elif (path := folder / "tokenizer.json").is_file():
        model = read_json_object(path, CheckpointError).get("model")
        vocabulary = model.get("vocab") if isinstance(model, Mapping) else {}
    return vocabulary is None or vocabulary == byte_pairs().encoder  # type: ignore[attr-defined]


def _from_hub(name: str) -> Path:
    """The folder of a model of the hub: what is in the cache, or else downloaded.

    Raises:
        WeightsError: it is neither here nor can it be downloaded.
    """
    from huggingface_hub import snapshot_download

    wanted = [*_FILES, *_TOKENIZER_FILES]
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=wanted))
        if any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file():
            return folder
    except Exception:  # it is not in the cache, of which the hub's client says so in many kinds
        pass
    try:
        with fail_fast_offline():
            return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise WeightsError(
            f"the model '{name}' is not in the hub's cache on this machine and could not be "
            f"downloaded ({first_line(error, 160)}). Let the download through (`hf auth login`, "
            "HF_ENDPOINT, or a filled HF_HOME from another machine), or give a local folder: "
            "load_backbone(FOLDER)"
        ) from error

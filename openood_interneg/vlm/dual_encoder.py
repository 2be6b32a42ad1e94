"""Any dual encoder of transformers behind CLIP's interface: SigLIP, SigLIP2 and their like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openood_interneg.settings import first_line, shown
from openood_interneg.vlm.clip_weights import MAX_CONTEXT, CheckpointError
from openood_interneg.vlm.tokenizers import TokenizerError, context_length

# Trained on texts that were padded to their full length, the padding attended to.
PADDED = ("siglip",)


class DualEncoder(nn.Module):
    """A model of transformers with `encode_image` and `encode_text`, full-length texts only.

    A logit bias (SigLIP's) is added to all logits alike. It cancels in every softmax and shifts
    energies and largest logits by a constant, so no ranking depends on it, and it is left out.

    Args:
        model: with `get_image_features`, `get_text_features`, `logit_scale`, `text_model` and
            `vision_model`.
        image_size: side of the images, in pixels.
        context_length: positions of a text.
        pad: id of the padding token; None where padding is attended to.
        eos: id of the token that ends a text, or None.

    Raises:
        CheckpointError: the model lacks a part of that.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: int,
        context_length: int,
        pad: int | None,
        eos: int | None,
    ):
        super().__init__()
        needed = ("get_image_features", "get_text_features", "logit_scale")
        for part in (*needed, "text_model", "vision_model"):
            if not hasattr(model, part):
                raise CheckpointError(
                    f"{type(model).__name__} is no dual encoder of images and texts with a "
                    f"temperature: it has no '{part}'"
                )
        self.model: Any = model
        self.image_size, self.context_length = image_size, context_length
        self.pad, self.eos = pad, eos

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the temperature's inverse, as CLIP keeps it."""
        return self.model.logit_scale

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.vision_model

    @property
    def text(self) -> nn.Module:
        """The text tower."""
        return self.model.text_model

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, D) image features before normalisation."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, context) int64 -> (B, D) text features before normalisation."""
        if self.pad is None:
            return _pooled(self.model.get_text_features(input_ids=tokens))
        mask = tokens != self.pad
        if self.pad == self.eos:  # the first one ends the text
            mask |= (~mask).int().cumsum(dim=1) == 1
        return _pooled(self.model.get_text_features(input_ids=tokens, attention_mask=mask.long()))


def _pooled(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output


class HFTokenizer:
    """A tokenizer of transformers as this package wants it: texts -> (n, context) int64.

    Args:
        tokenizer: of transformers.
        length: positions that every text is padded or cut to.
        lower: lower-case texts first, where the tokenizer does not do it itself.
    """

    def __init__(self, tokenizer: Any, length: int, *, lower: bool = False):
        self.tokenizer, self.length, self.lower = tokenizer, length, lower

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, length) int64 token ids."""
        texts = [text.lower() if self.lower else text for text in texts]
        found = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.length)
        return torch.tensor(found["input_ids"], dtype=torch.int64)


def hf_tokenizer(tokenizer: Any, model: nn.Module) -> HFTokenizer:
    """A tokenizer of transformers for a model of this package.

    Args:
        tokenizer: of transformers.
        model: a `DualEncoder`, or a CLIP.

    Raises:
        TokenizerError: neither says how long texts are.
    """
    length = context_length(model) or getattr(tokenizer, "model_max_length", None)
    if not isinstance(length, int) or not 1 <= length <= MAX_CONTEXT:
        raise TokenizerError(f"nothing says how long the model's texts are (not {shown(length)})")
    padded = isinstance(model, DualEncoder) and model.pad is None
    own = type(tokenizer).__name__.lower().startswith("siglip")  # lower-cases by itself
    return HFTokenizer(tokenizer, length, lower=padded and not own)


def dual_encoder(model: nn.Module, config: Mapping[str, Any]) -> DualEncoder:
    """The adapter of a model of transformers.

    Args:
        model: of transformers.
        config: its configuration.

    Raises:
        CheckpointError: no dual encoder, or sizes that the configuration does not give.
    """
    kind, text = config.get("model_type"), config.get("text_config") or {}
    if kind == "siglip2":
        raise CheckpointError(
            "this SigLIP2 takes images of any size in patches (NaFlex), which is not supported; "
            "take a checkpoint of fixed size (siglip2-base-patch16-224 and the like)"
        )
    sizes = {
        "vision_config.image_size": (config.get("vision_config") or {}).get("image_size"),
        "text_config.max_position_embeddings": text.get("max_position_embeddings"),
    }
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{name} is {shown(value)}; the model's configuration needs it")
    image, length = sizes.values()
    return DualEncoder(
        model,
        image_size=int(image or 0),
        context_length=int(length or 0),
        pad=None if kind in PADDED else text.get("pad_token_id", config.get("pad_token_id")),
        eos=text.get("eos_token_id", config.get("eos_token_id")),
    )


def from_folder(folder: str, config: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """Model and tokenizer of a local folder, by transformers; nothing of the folder is executed.

    Raises:
        CheckpointError: transformers cannot load them.
    """
    from transformers import AutoModel, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModel.from_pretrained(folder, **options, dtype=torch.float32)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(
            f"transformers cannot load {folder} (model_type {shown(config.get('model_type'))}): "
            f"{first_line(error, 240)}"
        ) from error
    return model, tokenizer

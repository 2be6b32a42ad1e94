"""The frozen model: images and texts in, unit rows out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.settings import InternegError, SettingsError
from openood_interneg.vlm.checkpoints import CheckpointError
from openood_interneg.vlm.device import operators_of
from openood_interneg.vlm.identity import model_digest
from openood_interneg.vlm.precision import COMPILE, PRECISIONS, CompiledTower, Precision
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import fill
from openood_interneg.vlm.pseudo_prompts import (
    FullLengthPseudoPrompts,
    PseudoPrompts,
    TextTowerError,
    find_placeholder,
    pseudo_prompts,
)
from openood_interneg.vlm.text_tower import CausalTextTower, FullLengthTextTower
from openood_interneg.vlm.tokenizers import Tokenizer, token_embedding
from openood_interneg.vlm.tower_weights import causal_source

__all__ = ["Backbone", "FeatureError", "Precision"]


class FeatureError(InternegError, ValueError):
    """Features that are not finite: a broken image, model or precision."""


class Backbone:
    """A frozen CLIP: images and texts in, float32 unit rows out.

    Args:
        model: open_clip model or OpenAI `clip` model in float32; put into eval mode, gradients
            off.
        tokenizer: list of strings -> (n, context) int64.
        preprocess: what images need before `encode_image`.
        name: shown in tables and errors.
        device: where the model runs.
        precision: of the towers' matrix products; features are float32 in any case. With
            "+compile" the image tower goes through `torch.compile`.

    Raises:
        SettingsError: unknown precision.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        *,
        name: str,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
    ):
        if str(precision).removesuffix(COMPILE) not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise SettingsError(
                f"precision is {precision!r}; choose one of {known}, or one of them with {COMPILE}"
            )
        self.name = name
        self.precision: str = precision
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.logit_scale = _logit_scale(model, name)

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return self.model.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the towers' matrix products."""
        return PRECISIONS[self.precision.removesuffix(COMPILE)]

    @cached_property
    def digest(self) -> str:
        """Hex digest of weights, architecture and tokenizer: part of every cache key.

        See `model_digest`; preprocessing and precision have keys of their own.
        """
        return model_digest(self.model, self.tokenizer)

    # ---- images --------------------------------------------------------------------------

    def image_features(self, images: Tensor) -> Tensor:
        """Unit image features (B, D) float32, differentiable in `images` (B, 3, H, W)."""
        features = self._image_tower(images.to(self.dtype))
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Image features h (Eq. 2).

        Args:
            images: (B, 3, size, size) float, preprocessed; moved to the model's device.

        Returns:
            (B, D) float32 unit rows on the model's device.

        Raises:
            FeatureError: a feature is not finite, or has no direction (a norm of 0 or too large).
        """
        with operators_of(self.device):
            features = self.image_features(images.to(self.device, non_blocking=True))
        return _unit_rows(features, "image", self.name, self.precision)

    @property
    def _compute_model(self) -> Any:
        """The model in the precision of the towers.

        A copy of the weights, not autocast: autocast casts frozen weights anew in every call, and
        on a CPU its attention layers take a path ten times slower than float32.
        """
        if self.dtype == torch.float32:
            return self.model
        lowered = self.__dict__.get("_lowered")
        if lowered is None or lowered.logit_scale.device != self.device:
            lowered = self.__dict__["_lowered"] = copy.deepcopy(self.model).to(self.dtype)
        return lowered

    @property
    def _image_tower(self) -> Callable[[Tensor], Tensor]:
        tower = self._compute_model.encode_image
        if not self.precision.endswith(COMPILE):
            return tower
        compiled = self.__dict__.get("_compiled")
        if compiled is None or compiled[0] is not tower.__self__:
            compiled = self.__dict__["_compiled"] = (tower.__self__, torch.compile(tower))
        return CompiledTower(compiled[1], self.precision)

    # ---- texts ---------------------------------------------------------------------------

    @property
    def text_tower(self) -> CausalTextTower | FullLengthTextTower:
        """The tower on the model's present device; rebuilt if the model was moved."""
        tower = self.__dict__.get("_tower")
        if tower is None or tower.device != self.device:
            tower = self._build_tower()
            self.__dict__["_tower"] = tower
        return tower

    def _build_tower(self) -> CausalTextTower | FullLengthTextTower:
        found = causal_source(self.model)
        if found is not None:
            source, eot = found
            return CausalTextTower(source, eot, self.dtype)
        model = self._compute_model
        embedding = token_embedding(model)
        if embedding is None:
            raise TextTowerError(f"the text tower of {self.name} has no token embedding layer")
        return FullLengthTextTower(model.encode_text, embedding)

    @torch.no_grad()
    def encode_text(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int = 8192,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Text features e (Eq. 2) of whole prompts.

        Prompts are encoded sorted by length, cut after the end-of-text token where the tower
        allows it, in batches of about `batch_tokens` positions; the order of the result is the
        order of `texts`.

        Args:
            texts: n prompts.
            progress: called with the number of prompts finished since the last call.

        Returns:
            (n, D) float32 unit rows on the model's device.

        Raises:
            FeatureError: as `encode_image`.
        """
        tower = self.text_tower
        tokens = self.tokenizer(list(texts))
        if not len(tokens):
            return torch.empty(0, self.embed_dim, device=self.device)
        if isinstance(tower, CausalTextTower):
            lengths = tower.eot(tokens) + 1
        else:
            lengths = torch.full((len(tokens),), tokens.shape[1])
        order = lengths.argsort(stable=True)
        out = torch.empty(0)
        begin = 0
        while begin < len(order):
            # Sorted by length, so the last row of a batch is its longest.
            count = max(int(batch_tokens // int(lengths[order[begin]])), 1)
            while count > 1:
                end = min(begin + count, len(order))
                if (end - begin) * int(lengths[order[end - 1]]) <= batch_tokens * 1.25:
                    break
                count = max(count * 3 // 4, 1)
            rows = order[begin : begin + count]
            with operators_of(self.device):
                features = tower.encode(tokens[rows])
            if begin == 0:
                out = features.new_empty(len(order), features.shape[1])
            out[rows.to(out.device)] = features
            begin += len(rows)
            if progress is not None:
                progress(len(rows))
        return _unit_rows(out, "text", self.name, self.precision)

    @cached_property
    def embed_dim(self) -> int:
        """D, size of the shared embedding."""
        with torch.no_grad():
            return self.text_tower.encode(self.tokenizer(["a"])).shape[1]

    def encode_prompts(
        self, names: Sequence[str], templates: Sequence[str], **options: Any
    ) -> Tensor:
        """Features of names under a prompt set, (n, D) float32 unit rows.

        With several templates the features are averaged and normalised again.
        """
        total: Tensor | None = None
        for template in templates:
            features = self.encode_text([fill(template, name) for name in names], **options)
            total = features if total is None else total + features
        if total is None:
            raise ValueError("no templates are given")
        return total if len(templates) == 1 else F.normalize(total, dim=-1)

    def pseudo_prompts(
        self, templates: Sequence[str], num_tokens: int
    ) -> PseudoPrompts | FullLengthPseudoPrompts:
        """Prompt templates with room for T pseudo-tokens, ready for modality inversion.

        Every template is tokenised and its prefix cached once per model, ever.

        Raises:
            TextTowerError: a template cannot hold the pseudo-tokens.
        """
        key = (tuple(templates), num_tokens, self.text_tower)
        cache = self.__dict__.setdefault("_pseudo_prompts", {})
        if key not in cache:
            found = find_placeholder(self.tokenizer, [fill(t, "") for t in templates])
            if found is None:
                raise TextTowerError(
                    f"the tokenizer of {self.name} splits every placeholder that is known; "
                    "modality inversion needs one that is a single token"
                )
            slots = " ".join([found[0]] * num_tokens)
            tokens = self.tokenizer([fill(template, f" {slots} ") for template in templates])
            cache[key] = pseudo_prompts(self.text_tower, tokens, num_tokens, found[1])
        return cache[key]


def _unit_rows(features: Tensor, what: str, name: str, precision: str) -> Tensor:
    """Normalised features (n, D), once every row was seen to have norm 1."""
    # Normalising leaves NaN as it is, and turns a norm of 0 or beyond float32 into a row of zeros.
    bad = ~((torch.linalg.vector_norm(features, dim=1) - 1).abs() < 0.01)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        finite = bool(torch.isfinite(features[row]).all())
        kind = "of norm 0, or too large for float32" if finite else "with NaN or infinity"
        raise FeatureError(
            f"{what} {row} of this batch gives a feature {kind} in {name} at precision {precision};"
            f" check the {what} and the weights, or use precision bf16 or fp32"
        )
    return features


def _logit_scale(model: Any, name: str) -> float:
    """exp of the model's learned scale; CLIP keeps it at 100 or below."""
    stored = model.logit_scale.detach().float().reshape(-1)[0]
    scale = float(stored.exp())
    if not 1e-3 <= scale <= 1e5:
        raise CheckpointError(
            f"{name}: the weights hold the logit scale {float(stored):g}, whose exponential is to "
            "be between 0.001 and 100000 (CLIP's is 100): they are damaged, or no CLIP's"
        )
    return scale

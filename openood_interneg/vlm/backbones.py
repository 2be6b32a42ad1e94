"""The frozen model: one factory, one class, whatever the weights come from."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.settings import InternegError, SettingsError
from openood_interneg.vlm.checkpoints import CheckpointError, load_checkpoint
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import fill
from openood_interneg.vlm.pseudo_prompts import PLACEHOLDER, TextTowerError, pseudo_prompts
from openood_interneg.vlm.text_tower import CausalTextTower, FullLengthTextTower
from openood_interneg.vlm.tower_weights import causal_source

Precision = Literal["fp32", "bf16", "fp16", "fp32+compile", "bf16+compile", "fp16+compile"]
COMPILE = "+compile"

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# The paper's backbones (Table 10). OpenAI's weights were trained with the quick GELU.
OPENAI_BACKBONES = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
}

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class WeightsError(InternegError, RuntimeError):
    """Pretrained weights that cannot be had here, with what to do about it."""


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
        tokenizer: Callable[[Sequence[str]], Tensor],
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
        self.precision = precision
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.model = model.to(device).eval().requires_grad_(False)
        self.logit_scale = float(model.logit_scale.detach().float().exp().reshape(-1)[0])

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
        """Hex digest of all weights: part of every cache key."""
        hasher = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return hasher.hexdigest()

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
            FeatureError: a feature is not finite.
        """
        features = self.image_features(images.to(self.device, non_blocking=True))
        finite = torch.isfinite(features).all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise FeatureError(
                f"image {row} of this batch gives a feature with NaN or infinity at precision "
                f"{self.precision}; check the image's pixels, or use precision bf16 or fp32"
            )
        return features

    @property
    def _compute_model(self) -> nn.Module:
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
        return _Compiled(compiled[1], self.precision)

    # ---- texts ---------------------------------------------------------------------------

    @property
    def text_tower(self) -> CausalTextTower | FullLengthTextTower:
        """The tower on the model's present device; rebuilt if the model was moved."""
        tower = self.__dict__.get("_tower")
        if tower is None or tower.device != self.device:
            tower = self._build_tower()
            self.__dict__["_tower"] = tower
        return tower

    def _build_tower(self):
        found = causal_source(self.model)
        if found is not None:
            source, eot = found
            return CausalTextTower(source, eot, self.dtype)
        model = self._compute_model
        text = getattr(model, "text", model)
        embeddings = [m for m in text.modules() if isinstance(m, nn.Embedding)]
        if not embeddings:
            raise TextTowerError(f"the text tower of {self.name} has no token embedding layer")
        embedding = max(embeddings, key=lambda m: m.num_embeddings)
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
        """
        tower = self.text_tower
        tokens = self.tokenizer(list(texts))
        if not len(tokens):
            return torch.empty(0, self.embed_dim, device=self.device)
        if tower.exact_truncation:
            lengths = tower.eot(tokens) + 1
        else:
            lengths = torch.full((len(tokens),), tokens.shape[1])
        order = lengths.argsort(stable=True)
        out = None
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
            features = tower.encode(tokens[rows])
            if out is None:
                out = features.new_empty(len(order), features.shape[1])
            out[rows.to(out.device)] = features
            begin += len(rows)
            if progress is not None:
                progress(len(rows))
        return out

    @cached_property
    def embed_dim(self) -> int:
        """D, size of the shared embedding."""
        with torch.no_grad():
            return self.text_tower.encode(self.tokenizer(["a"])).shape[1]

    def encode_prompts(self, names: Sequence[str], templates: Sequence[str], **options) -> Tensor:
        """Features of names under a prompt set, (n, D) float32 unit rows.

        With several templates the features are averaged and normalised again.
        """
        total = None
        for template in templates:
            features = self.encode_text([fill(template, name) for name in names], **options)
            total = features if total is None else total + features
        return total if len(templates) == 1 else F.normalize(total, dim=-1)

    def pseudo_prompts(self, templates: Sequence[str], num_tokens: int):
        """Prompt templates with room for T pseudo-tokens, ready for modality inversion.

        Every template is tokenised and its prefix cached once per model, ever.

        Raises:
            TextTowerError: a template cannot hold the pseudo-tokens.
        """
        key = (tuple(templates), num_tokens, self.text_tower)
        cache = self.__dict__.setdefault("_pseudo_prompts", {})
        if key not in cache:
            slots = " ".join([PLACEHOLDER] * num_tokens)
            tokens = self.tokenizer([fill(template, f" {slots} ") for template in templates])
            # The id of the placeholder, from the tokenizer itself: what differs from blank text.
            filled, blank = self.tokenizer([PLACEHOLDER, ""])
            ids = [t for t in filled.tolist() if t not in set(blank.tolist())]
            if len(ids) != 1:
                raise TextTowerError(
                    f"the tokenizer of {self.name} splits the placeholder '{PLACEHOLDER}' into "
                    f"{len(ids)} tokens; modality inversion needs one"
                )
            cache[key] = pseudo_prompts(self.text_tower, tokens, num_tokens, ids[0])
        return cache[key]


class _Compiled:
    """What `torch.compile` made; that it cannot work here only shows at the first call."""

    def __init__(self, tower: Callable[[Tensor], Tensor], precision: str):
        self.tower, self.precision = tower, precision

    def __call__(self, images: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.tower(images)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise SettingsError(
                f"precision is {self.precision!r}, and torch.compile does not work here "
                f"({reason}); use {self.precision.removesuffix(COMPILE)!r}, or install a C++ "
                "compiler"
            ) from error


def load_backbone(
    source: str | Path | nn.Module = "ViT-B/16",
    *,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    name: str | None = None,
) -> Backbone:
    """Loads a frozen CLIP.

    Args:
        source: one of the paper's backbones (RN50, RN101, ViT-B/32, ViT-B/16, ViT-L/14; OpenAI's
            weights through open_clip), an open_clip model name with `pretrained`, a local
            checkpoint (.safetensors, .pt, .pth, .bin in OpenAI's state-dict layout), the word
            "miniature" for the embedded one, or a model object of the `clip` package.
        pretrained: open_clip's tag or a weights file for it.
        device, precision: explicit; nothing is moved later.
        name: shown in tables; by default the source's.

    Raises:
        SettingsError: a device that is not there.
        WeightsError: weights that are not on this machine and cannot be downloaded.
        CheckpointError: an unreadable or unsuitable local file.
    """
    device = pick_device(device)
    _warn_of_emulation(precision, device)
    if isinstance(source, nn.Module):
        return _from_object(source, device, precision, name or "clip object")
    text = str(source)
    options = {"device": device, "precision": precision}
    if text == "miniature" and pretrained is None:
        from importlib.resources import as_file, files

        with as_file(files("openood_interneg.demo") / "clip.safetensors") as path:
            model, preprocess = load_checkpoint(path)
        return Backbone(model, _clip_tokenizer(model), preprocess, name=name or text, **options)
    if text.endswith(CHECKPOINT_SUFFIXES) and pretrained is None:
        path = Path(text).expanduser()
        model, preprocess = load_checkpoint(path)
        return Backbone(
            model, _clip_tokenizer(model), preprocess, name=name or path.stem, **options
        )
    return _from_open_clip(text, pretrained, name, options)


def _warn_of_emulation(precision: Precision, device: torch.device) -> None:
    """A CPU without instructions for a low precision computes it many times slower than fp32."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    native = {
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }.get(str(precision).removesuffix(COMPILE))
    if native is not None and not native():
        warnings.warn(
            f"this CPU has no instructions for {precision} and emulates it, many times slower than "
            "fp32; leave --precision out, or use a GPU",
            stacklevel=3,
        )


def _from_open_clip(text: str, pretrained: str | None, name: str | None, options) -> Backbone:
    import open_clip

    architecture = OPENAI_BACKBONES.get(text, text) if pretrained in (None, "openai") else text
    if pretrained is None:
        pretrained = "openai"
        if text not in OPENAI_BACKBONES and not text.startswith(("hf-hub:", "local-dir:")):
            known = ", ".join([*OPENAI_BACKBONES, "miniature"])
            raise WeightsError(
                f"unknown backbone '{text}'; known: {known}. Any other open_clip model needs "
                "its pretrained tag (--pretrained laion2b_s34b_b88k), a local file its ending "
                f"({', '.join(CHECKPOINT_SUFFIXES)})"
            )
    hub = text.startswith(("hf-hub:", "local-dir:"))
    if not hub and architecture.replace("/", "-") not in open_clip.list_models():
        raise WeightsError(
            f"open_clip has no model '{text}'; `python -c 'import open_clip; "
            "print(open_clip.list_models())'` lists them"
        )
    try:
        with _fail_fast_offline():
            model = open_clip.create_model(
                architecture, pretrained=None if hub else pretrained, precision="fp32"
            )
    except Exception as error:  # hub clients raise many kinds
        raise WeightsError(_no_weights(text, pretrained, error)) from error
    tokenizer = open_clip.get_tokenizer(architecture)
    preprocess = _own_preprocess(model)
    label = name or (text if pretrained == "openai" else f"{text} {pretrained}")
    return Backbone(model, tokenizer, preprocess, name=label, **options)


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


def _own_preprocess(model: nn.Module) -> Preprocess:
    config = model.visual.preprocess_cfg if hasattr(model.visual, "preprocess_cfg") else {}
    size = config.get("size") or model.visual.image_size
    size = size[0] if isinstance(size, (tuple, list)) else size
    kept = {k: config[k] for k in ("mean", "std", "interpolation") if config.get(k)}
    return Preprocess(size=int(size), **kept)


def _from_object(model: nn.Module, device, precision: Precision, name: str) -> Backbone:
    for needed in ("encode_image", "encode_text", "visual", "logit_scale"):
        if not hasattr(model, needed):
            raise CheckpointError(
                f"{type(model).__name__} is no CLIP model object: it has no '{needed}'"
            )
    model = copy.deepcopy(model).float()  # the caller's object stays as it is
    size = getattr(model.visual, "input_resolution", None)
    preprocess = Preprocess(size=int(size)) if size else _own_preprocess(model)
    return Backbone(
        model, _clip_tokenizer(model), preprocess, name=name, device=device, precision=precision
    )


def _clip_tokenizer(model: nn.Module):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=int(model.context_length))


def _no_weights(text: str, pretrained: str, error: Exception) -> str:
    reason = (
        str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    )
    return (
        f"the weights '{pretrained}' of {text} are not on this machine and could not be "
        f"downloaded ({reason}).\n"
        "Three remedies:\n"
        "  1. let the download through: `huggingface-cli login`, or set HF_ENDPOINT to a mirror\n"
        "     you can reach, or copy a filled HF_HOME from another machine;\n"
        "  2. pass a local checkpoint: --backbone /path/to/clip.safetensors (OpenAI's layout), or\n"
        f"     --backbone {text} --pretrained /path/to/file for other open_clip models;\n"
        "  3. use the embedded miniature: --backbone miniature (or `interneg demo`)."
    )

"""A frozen CLIP as the network that OpenOOD's evaluators and postprocessors expect."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.data.classnames import KNOWN_CLASS_NAMES, check_class_names, check_tokens
from openood_interneg.data.classnames import class_names as read_class_names
from openood_interneg.settings import InternegError
from openood_interneg.vlm.backbones import Backbone, Precision
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.prompts import prompt_set


class NetworkError(InternegError, TypeError):
    """A network that zero-shot methods cannot work with."""


class ClipHead(nn.Module):
    """Image features in, logits of the ID labels out, through the interface of OpenOOD's networks.

    The labels' text features are the weight of a linear layer with a zero bias, so methods that
    look at the last layer (ViM, DICE, fDBD, ...) find one. Only ID labels have logits: OpenOOD
    reads its accuracy from `net(x).argmax(1)`.

    Args:
        labels: (C, D) unit text features.
        logit_scale: s; logits are s * cosine.
    """

    def __init__(self, labels: Tensor, logit_scale: float):
        super().__init__()
        classes, size = labels.shape
        self.feature_size, self.num_classes, self.logit_scale = size, classes, logit_scale
        self.fc = nn.Linear(size, classes, device=labels.device)
        with torch.no_grad():
            self.fc.weight.copy_(logit_scale * labels)
            self.fc.bias.zero_()
        self.fc.requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Features (B, D): of images (B, 3, H, W), or `x` itself where it is (B, D) already."""
        return x if x.dim() == 2 else self.encode(x)

    def encode(self, images: Tensor) -> Tensor:
        """Unit features of images, differentiable in the images."""
        raise NetworkError(f"this network takes features (B, {self.feature_size}), not images")

    def forward(
        self, x: Tensor, return_feature: bool = False, return_feature_list: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, list[Tensor]]:
        """Logits (B, C); with them the features, or the list of the one feature layer."""
        features = self.features(x)
        logits = self.fc(features)
        if return_feature_list:
            return logits, [features]
        return (logits, features) if return_feature else logits

    def forward_threshold(self, x: Tensor, threshold: float) -> Tensor:
        """Logits of features cut off at `threshold` from above (ReAct)."""
        return self.fc(self.features(x).clip(max=threshold))

    def intermediate_forward(self, x: Tensor, layer_index: int | None = None) -> Tensor:
        """The features; a CLIP has no other layer to offer."""
        return self.features(x)

    def get_fc(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (C, D) and bias (C,) of the last layer."""
        return self.fc.weight.detach().cpu().numpy(), self.fc.bias.detach().cpu().numpy()

    def get_fc_layer(self) -> nn.Linear:
        """The last layer."""
        return self.fc


class ClipZeroShot(ClipHead):
    """A CLIP and class names as one network: images (B, 3, H, W) -> logits (B, C).

    Args:
        backbone: the frozen model; it moves with the network (`net.to("cuda")`).
        class_names: C names, in label order.
        prompt: prompt set or template of the labels whose logits the network gives. Detectors
            encode the labels anew with their own setting `label_prompt`.
        labels: (C, D) unit text features instead of prompts.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        prompt: str | Sequence[str] = "nice",
        *,
        labels: Tensor | None = None,
    ):
        names = tuple(class_names)
        if labels is None:
            check_tokens(names, backbone.tokenizer, prompt_set(prompt))
            labels = backbone.encode_prompts(names, prompt_set(prompt))
        if len(labels) != len(names):
            raise NetworkError(f"{len(names)} class names for {len(labels)} label features")
        super().__init__(labels, backbone.logit_scale)
        self._clip = backbone
        self.class_names = names
        self.model = backbone.model  # registered, so that it moves with the network
        self.eval()

    @classmethod
    def load(
        cls,
        backbone: str | Path | nn.Module = "ViT-B/16",
        class_names: str | Path | Sequence[str] = "imagenet",
        *,
        pretrained: str | None = None,
        prompt: str = "nice",
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
    ) -> ClipZeroShot:
        """Builds the network from names.

        Args:
            backbone: as for `load_backbone`, like pretrained, device and precision.
            class_names: a known set (cifar10, cifar100, imagenet200, imagenet), a text file with
                one name a line, or the names.
        """
        model = load_backbone(backbone, pretrained=pretrained, device=device, precision=precision)
        return cls(model, resolve_class_names(class_names), prompt)

    @classmethod
    def wrap(
        cls, net: nn.Module, class_names: str | Sequence[str], prompt: str = "nice"
    ) -> ClipZeroShot:
        """Adapts OpenOOD's own `CLIPZeroshot` (its label features are kept), or a model object of
        the `clip` package (its labels are encoded with `prompt`). The object is copied.

        Raises:
            NetworkError: neither of the two.
        """
        names = resolve_class_names(class_names)
        model: Any = getattr(net, "model", net)
        weights = getattr(net, "zeroshot_weights", None)
        if not hasattr(model, "encode_text"):
            raise NetworkError(f"{type(net).__name__} is no CLIP: it has no text tower")
        backbone = load_backbone(model, device=model.logit_scale.device)
        if weights is None:
            return cls(backbone, names, prompt)
        labels = F.normalize(weights.detach().t().float().to(backbone.device), dim=-1)
        return cls(backbone, names, labels=labels)

    @property
    def clip(self) -> Backbone:
        """The frozen model."""
        return self._clip

    def encode(self, images: Tensor) -> Tensor:
        """Unit features of images; out of place, in float32, differentiable in the images."""
        return self._clip.image_features(images.to(self._clip.device))

    def head(self) -> ClipHead:
        """The last layer alone, for features that are encoded already."""
        with torch.no_grad():
            return ClipHead(self.fc.weight / self.logit_scale, self.logit_scale).eval()

    def train(self, mode: bool = True) -> ClipZeroShot:
        """Stays in evaluation mode: the model is frozen."""
        return super().train(False)


# By the object, and by what its classes were called: one CLIP may serve several benchmarks.
_wrapped: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, ...], ClipZeroShot]] = (
    weakref.WeakKeyDictionary()
)
_named: dict[str, tuple[str, ...]] = {}


def inner_clip(net: nn.Module) -> nn.Module | None:
    """The `ClipZeroShot`, or the bare CLIP, inside a network; None where there is no CLIP.

    Looks through DataParallel and OpenOOD's wrappers (ReactNet, ASHNet, ...).
    """
    inner: nn.Module | None = net
    while isinstance(inner, nn.Module):
        if isinstance(inner, ClipZeroShot):
            return inner
        if hasattr(getattr(inner, "model", inner), "encode_text"):
            return inner
        inner = getattr(inner, "module", None) or getattr(inner, "backbone", None)
    return None


def as_clip(net: nn.Module, class_names: str | Sequence[str] | None = None) -> ClipZeroShot:
    """The CLIP inside a network.

    Looks where `inner_clip` does, and adapts OpenOOD's `CLIPZeroshot` where the class names are
    known.

    Raises:
        NetworkError: no CLIP in it, or a bare one without class names.
    """
    inner = inner_clip(net)
    if inner is None:
        raise NetworkError(
            f"{type(net).__name__} has no text tower, and zero-shot methods need one; use "
            "openood_interneg.plugin.ClipZeroShot.load('ViT-B/16', 'imagenet')"
        )
    if isinstance(inner, ClipZeroShot):
        return inner
    made = _wrapped.setdefault(inner, {})
    if class_names is None:
        if not made:
            raise NetworkError(
                f"the class names of this {type(inner).__name__} are not known; wrap it: "
                "ClipZeroShot.wrap(net, class_names)"
            )
        return list(made.values())[-1]
    names = resolve_class_names(class_names)
    if names not in made:
        made[names] = ClipZeroShot.wrap(inner, names)
    return made[names]


def own_preprocessing(
    net: nn.Module, class_names: Sequence[str] | None
) -> Callable[..., Any] | None:
    """The preprocessing of the CLIP inside a network; None where there is no CLIP.

    Raises:
        NetworkError: a bare CLIP, and the class names are not known.
    """
    if inner_clip(net) is None:
        return None
    return as_clip(net, class_names).clip.preprocess.transform()


def name_class_names(dataset: str, names: Sequence[str]) -> None:
    """Sets the names of a benchmark's classes, in label order.

    A network with other class names is refused on that benchmark; with this function you can use
    your own names for its classes.
    """
    _named[dataset] = check_class_names(names)


def known_class_names(dataset: str | None) -> tuple[str, ...] | None:
    """Names of a benchmark's classes; None if they are not known."""
    if dataset in _named:
        return _named[dataset]
    return read_class_names(dataset) if dataset in KNOWN_CLASS_NAMES else None


def resolve_class_names(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names from a registered benchmark's name, a known set, a file or a sequence."""
    if isinstance(source, str) and source in _named:
        return _named[source]
    return read_class_names(source)

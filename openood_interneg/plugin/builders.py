"""What main.py of OpenOOD builds by name: our network and our preprocessing."""

from __future__ import annotations

import functools
from typing import Any

import torch

from openood_interneg.plugin.network import ClipZeroShot, resolve_class_names
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import Backbone, Precision
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess

NETWORK = "clip_zeroshot_interneg"
PREPROCESSOR = "clip"


def build_network(config: Any) -> ClipZeroShot:
    """The CLIP of a `network` block: backbone, pretrained_tag, class_names, prompt, precision.

    With `num_gpus: 1` it goes to the GPU where there is one, else it stays on the CPU.

    Raises:
        SettingsError: more than one GPU; class names and num_classes that differ.
    """
    if (config.num_gpus or 0) > 1:
        raise SettingsError(
            "network.num_gpus is more than 1: a stream is one sequence of images, so methods with "
            "a memory cannot be spread over processes; use num_gpus 1"
        )
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    names = resolve_class_names(config.class_names)
    if config.num_classes and int(config.num_classes) != len(names):
        raise SettingsError(
            f"dataset.num_classes is {config.num_classes}, but network.class_names "
            f"({config.class_names}) are {len(names)}"
        )
    backbone = configured_backbone(config)
    backbone.model.to(device)
    return ClipZeroShot(backbone, names, config.prompt or "nice")


class ClipPreprocessor:
    """CLIP's own preprocessing for every split, also for training: no random augmentation.

    For our network it is the model's (`preprocessor.variant` is `clip`, or `openood_vlm`); for
    another one, CLIP's with the sizes of the `dataset` block.
    """

    def __init__(self, config: Any):
        network = config.network
        if network is not None and network.name == NETWORK:
            preprocess = configured_backbone(network).preprocess
        else:
            preprocess = Preprocess(config.dataset.image_size, resize=config.dataset.pre_size)
        variant = config.preprocessor.variant or "clip"
        self.transform = preprocess.variant(variant).transform()

    def setup(self, **kwargs: Any) -> None:
        """Called by OpenOOD before every image; nothing to do."""

    def __call__(self, image: Any) -> torch.Tensor:
        return self.transform(image)


@functools.lru_cache(maxsize=1)
def _loaded(source: str, pretrained: str | None, precision: Precision) -> Backbone:
    return load_backbone(source, pretrained=pretrained, precision=precision)


def configured_backbone(network: Any) -> Backbone:
    """The backbone of a `network` block; preprocessing and network share one."""
    tag = network.pretrained_tag
    tag = None if tag in (None, "", "none") else tag
    return _loaded(str(network.backbone), tag, network.precision or "fp32")

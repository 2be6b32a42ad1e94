"""From the pixels that OpenOOD's loaders give to what a detector's features are of."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from openood_interneg.data.encode import Views
from openood_interneg.data.views import ViewMaker, view_names
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.patches import encode_with_patches


def encode_views(backbone: Backbone, images: Tensor, keys: Tensor, kind: Views) -> Tensor:
    """Features of images and their corrupted copies, (V, B, D), the images themselves first.

    A loader hands over preprocessed pixels, so the copies are made from the resized and cropped
    image; `interneg eval` makes them from the file.

    Args:
        images: (B, 3, H, W), normalised as the backbone's own preprocessing does it.
        keys: (B,) int64. kind: the views.
    """
    preprocess = backbone.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    names = view_names(kind.names)
    maker = ViewMaker(names, kind.seed, size=min(224, preprocess.size))
    transform = preprocess.transform()
    made = []
    for image, key in zip(images.cpu(), keys.tolist(), strict=True):
        levels = ((image * std + mean) * 255).round().clamp(0, 255)  # exact: they were bytes once
        original = to_pil_image(levels.to(torch.uint8))
        made.append(torch.stack([transform(view) for view in maker(original, key)]))
    stacked = torch.stack(made).transpose(0, 1)  # (V, B, 3, H, W)
    return torch.stack([backbone.encode_image(view) for view in stacked])


def encode_patches(backbone: Backbone, images: Tensor) -> Tensor:
    """Features of images and their patches, (1 + P, B, D), the images themselves first."""
    return encode_with_patches(backbone, images.to(backbone.device))

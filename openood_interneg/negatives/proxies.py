"""Image proxies: what a class looks like on average, from a few ID images (Eq. 7)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.settings import IdImageSettings, InternegError


class ProxyError(InternegError, ValueError):
    """ID images from which no proxy can be made."""


def sample_per_class(
    labels: Sequence[int] | np.ndarray,
    num_classes: int,
    images_per_class: int,
    *,
    select: Literal["random", "first"] = "random",
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Which images of a labelled data set to read: N per class, by label alone.

    Args:
        labels: (n,) integer label of every image; labels outside 0..C-1 are ignored.
        num_classes: C.
        images_per_class: N.
        select: the first N of each class in the given order, or N drawn with `seed`. The draw
            for a class depends on the seed, the class and its own images only.
        class_names: for messages.

    Returns:
        Indices, (at most C * N,) int64, class by class in label order.

    Raises:
        ProxyError: a class without any image. A class with fewer than N gives a warning.
    """
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_classes + 1))
    chosen, few = [], []
    for label in range(num_classes):
        members = order[starts[label] : starts[label + 1]]
        name = f"'{class_names[label]}'" if class_names is not None else "without a name"
        if len(members) == 0:
            raise ProxyError(
                f"class {label} ({name}) has no ID image; every class needs at least one. Add "
                "images of it to the training list, or take the class out of the class names"
            )
        if len(members) < images_per_class:
            few.append((label, name, len(members)))
        if select == "random" and len(members) > images_per_class:
            rng = np.random.Generator(np.random.Philox(key=[seed, label]))
            members = np.sort(rng.choice(members, images_per_class, replace=False))
        chosen.append(members[:images_per_class])
    if few:
        label, name, count = few[0]
        warnings.warn(
            f"{len(few)} of {num_classes} classes have fewer than {images_per_class} ID images "
            f"(first: class {label}, {name}, {count}); their proxies use what there is",
            stacklevel=2,
        )
    return np.concatenate(chosen)


def sample_id_images(
    labels: Sequence[int] | np.ndarray, class_names: Sequence[str], settings: IdImageSettings
) -> np.ndarray:
    """Which ID images the settings ask for; see `sample_per_class`."""
    return sample_per_class(
        labels,
        len(class_names),
        settings.images_per_class,
        select=settings.proxy_select,
        seed=settings.proxy_seed,
        class_names=class_names,
    )


def image_proxies(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Image proxies p_i (Eq. 7): normalised mean of the unit features of each class.

    Args:
        features: (n, D) float32 image features; normalised here again.
        labels: (n,) int64 in 0..C-1.

    Returns:
        (C, D) float32 unit rows.

    Raises:
        ProxyError: a class without any row, or features that are not finite.
    """
    if not bool(torch.isfinite(features).all()):
        raise ProxyError("the ID image features contain NaN or infinity")
    labels = labels.to(features.device)
    sums = features.new_zeros(num_classes, features.shape[1])
    sums.index_add_(0, labels, F.normalize(features, dim=-1))
    counts = torch.bincount(labels, minlength=num_classes)
    if bool((counts == 0).any()):
        raise ProxyError(f"class {int((counts == 0).nonzero()[0])} has no ID image feature")
    return F.normalize(sums, dim=-1)


def base_cosine(label_features: Tensor, proxies: Tensor) -> Tensor:
    """b_i = cos(e_i, p_i) = 1 - d_i^base (Eq. 8), (C,)."""
    return (label_features * proxies).sum(dim=-1)

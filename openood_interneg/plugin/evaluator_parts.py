"""What both evaluators do around their streams: searches, metrics, checks and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from openood_interneg.data.image_lists import BenchmarkError, check_images
from openood_interneg.plugin.baseline_table import BaselineError
from openood_interneg.plugin.loaders import listed_images
from openood_interneg.plugin.streams import Triple
from openood_interneg.plugin.sweep import SWEEP_SUFFIX, NamedValues
from openood_interneg.settings import SettingsError, shown


class NamedSearch:
    """OpenOOD's combinations of a sweep; as it prints them, they show their settings' names."""

    searched: Any  # the postprocessor whose settings are searched

    def recursive_generator(self, list: Any, n: int) -> Any:
        """Combinations of the first n of the lists of values."""
        # OpenOOD's class comes after this one.
        made = super().recursive_generator(list, n)  # type: ignore[misc]
        if n != len(list):
            return made
        names = [key.removesuffix(SWEEP_SUFFIX) for key in self.searched.args_dict]
        return [NamedValues(names, values) for values in made]


def method_name(postprocessor: Any) -> str:
    """Name of a postprocessor's method; of its class if it is not of this package."""
    name = getattr(getattr(postprocessor, "method", None), "name", None)
    return name or type(postprocessor).__name__


def stream_metrics(id_scores: Triple, ood_scores: Triple, postprocessor: Any) -> list[float]:
    """OpenOOD's metrics of one stream.

    Raises:
        BaselineError: a score that is not finite.
    """
    from openood.evaluators.metrics import compute_all_metrics

    pred, conf, label = (np.concatenate([a, b]) for a, b in zip(id_scores, ood_scores, strict=True))
    if not np.isfinite(conf).all():
        count = int((~np.isfinite(conf)).sum())
        raise BaselineError(
            f"{method_name(postprocessor)} gives NaN or infinity for {count} of "
            f"{len(conf)} images; often the dimension of its subspace (dim, vim) does not fit the "
            "feature size, or a class is without images among those it was fitted to"
        )
    return compute_all_metrics(conf, label, pred)


def look_for_csid(id_name: str, loaders: Mapping[str, DataLoader] | None) -> None:
    """The full spectrum needs covariate-shifted ID sets: without any it would be the plain table.

    Raises:
        BenchmarkError: there is none; or an image of one is not there.
    """
    if not loaders:
        raise BenchmarkError(
            f"fsood (full spectrum) needs covariate-shifted ID sets, and the benchmark '{id_name}' "
            "has none; add them to its YAML as ood_dataset.csid (datasets: [name], name: "
            "{data_dir, imglist_pth}), or evaluate without fsood"
        )
    for loader in loaders.values():
        listed = listed_images(loader.dataset)
        if listed is not None:
            check_images(listed)


def note_incomparable(postprocessor: Any) -> None:
    """Says that figures of a method with a memory under protocol openood are not the paper's."""
    method = getattr(postprocessor, "method", None)
    if method is not None and method.order_dependent:
        print(
            f"Note: '{method.name}' learns from the stream, and protocol openood scores all ID "
            "images before any OOD image; these figures are not comparable with the paper's "
            "(protocol mixed).",
            flush=True,
        )


def check_count(name: str, value: Any, low: int) -> None:
    """Refuses what is no whole number from `low` on, or too large for a seed.

    Raises:
        SettingsError: naming the value.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not low <= value < 2**63:
        raise SettingsError(f"{name} is {shown(value)}; it takes a whole number from {low} on")


def skip_second_image(loaders: Any) -> None:
    """OpenOOD prepares every image twice; the second one, `data_aux`, is for methods that are
    refused on a CLIP."""
    if isinstance(loaders, Mapping):
        for inner in loaders.values():
            skip_second_image(inner)
    elif hasattr(getattr(loaders, "dataset", None), "transform_aux_image"):
        loaders.dataset.transform_aux_image = _nothing


def _nothing(image: Any) -> torch.Tensor:
    return torch.empty(0)

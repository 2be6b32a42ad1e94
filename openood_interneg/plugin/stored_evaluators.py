"""OpenOOD's evaluators, and the methods and networks inside them, on features from the store.

Postprocessors of this package read the store by themselves. Here are OpenOOD's own methods, as far
as they need features only (`Baseline.pixels`), and the accuracy `net(x).argmax(1)` of any method:
while they run, loaders give features where the images are known, and the network passes them on to
its last layer. Outside such a call an evaluator's loaders give images.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from openood_interneg.plugin.baseline_table import BASELINES
from openood_interneg.plugin.builders import NETWORK, configured_backbone
from openood_interneg.plugin.network import ClipZeroShot, inner_clip
from openood_interneg.plugin.patching import replace_function
from openood_interneg.plugin.postprocessors import DetectorPostprocessor
from openood_interneg.plugin.stored_loaders import (
    cache_root,
    spread,
    stored_loader,
    stored_loaders,
)
from openood_interneg.vlm.backbones import Backbone

_MARK = "_interneg_keeps_features"


@dataclass
class _Making:
    """An evaluator that is being made: its backbone, its store, and its loaders of images."""

    backbone: Backbone
    root: Path | None
    loaders: Any = None


_making: ContextVar[_Making | None] = ContextVar("_making", default=None)


def feature_method(name: Any) -> bool:
    """Whether a name is that of a method of OpenOOD's that runs on features."""
    row = BASELINES.get(name)
    return row is not None and row.verdict != "refused" and not row.pixels


def takes_features(postprocessor: Any) -> bool:
    """Whether an object is of exactly such a method's class."""
    from openood.evaluation_api.postprocessor import postprocessors

    names = [name for name, cls in postprocessors.items() if cls is type(postprocessor)]
    return bool(names) and all(map(feature_method, names))


def on_features(method: Callable[..., Any]) -> Callable[..., Any]:
    """An evaluator's method, during which its loaders give features to a method of OpenOOD's."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _features(self):
            return method(self, *args, **kwargs)

    return wrapper


def keep_features(evaluator: Any, datasets: Any) -> None:
    """Lets OpenOOD's class `Evaluator` read features from the store; a second call does nothing.

    An OpenOOD without these functions is left as it is.

    Args:
        evaluator: the class.
        datasets: the module that makes its loaders.
    """
    runs = ("eval_acc", "eval_ood", "hyperparam_search")
    there = all(hasattr(evaluator, name) for name in (*runs, "_classifier_inference"))
    if not there or not hasattr(datasets, "get_id_ood_dataloader"):
        return
    replace_function(datasets, "get_id_ood_dataloader", _for_the_one_being_made)
    if _MARK in vars(evaluator):
        return
    evaluator.__init__ = _setting_up(evaluator.__init__)
    for name in runs:
        setattr(evaluator, name, on_features(getattr(evaluator, name)))
    evaluator._classifier_inference = _classifying(evaluator._classifier_inference)
    setattr(evaluator, _MARK, True)


def keep_features_of_pipelines(datasets: Any) -> None:
    """The same for `main.py`: loaders for a test of a method of OpenOOD's on our network.

    Args:
        datasets: the module with `get_dataloader` and `get_ood_dataloader`.
    """
    for name in ("get_dataloader", "get_ood_dataloader"):
        if hasattr(datasets, name):
            replace_function(datasets, name, _for_pipeline)


def _backbone(net: Any) -> Backbone | None:
    """The model of a network that passes features on; None where there is none."""
    inner = inner_clip(net)
    return inner.clip if isinstance(inner, ClipZeroShot) and not spread(net) else None


def _root(evaluator: Any, postprocessor: Any) -> Path | None:
    ours = isinstance(postprocessor, DetectorPostprocessor)
    return cache_root(postprocessor.cache_dir if ours else getattr(evaluator, "cache_dir", None))


@contextmanager
def _features(evaluator: Any) -> Iterator[None]:
    backbone = _backbone(evaluator.net)
    if backbone is None or not takes_features(evaluator.postprocessor):
        yield
        return
    plain = evaluator.dataloader_dict
    root = _root(evaluator, evaluator.postprocessor)
    evaluator.dataloader_dict = stored_loaders(plain, backbone, root)
    try:
        yield
    finally:
        evaluator.dataloader_dict = plain


def _setting_up(original: Callable[..., None]) -> Callable[..., None]:
    parameters = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = MappingProxyType(parameters.bind(self, *args, **kwargs).arguments)
        backbone, method = _backbone(given["net"]), given.get("postprocessor")
        named = method is None and feature_method(given.get("postprocessor_name"))
        making = None
        if backbone is not None and (named or takes_features(method)):
            making = _Making(backbone, _root(self, method))
        token = _making.set(making)
        try:
            original(self, *args, **kwargs)
        finally:
            _making.reset(token)
        if making is not None and making.loaders is not None:
            self.dataloader_dict = making.loaders

    return __init__


def _for_the_one_being_made(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_id_ood_dataloader(*args: Any, **kwargs: Any) -> Any:
        loaders, making = original(*args, **kwargs), _making.get()
        if making is None:
            return loaders
        making.loaders = loaders
        return stored_loaders(loaders, making.backbone, making.root)

    return get_id_ood_dataloader


def _classifying(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _classifier_inference(self: Any, data_loader: Any, *args: Any, **kwargs: Any) -> Any:
        backbone = _backbone(self.net)
        if backbone is not None:
            root = _root(self, self.postprocessor)
            data_loader = stored_loader(data_loader, backbone, root)
        return original(self, data_loader, *args, **kwargs)

    return _classifier_inference


def _for_pipeline(original: Callable[..., Any]) -> Callable[..., Any]:
    def get(config: Any) -> Any:
        loaders = original(config)
        pipeline, network, method = (
            config.get(block) and config[block].name
            for block in ("pipeline", "network", "postprocessor")
        )
        tests = str(pipeline).startswith("test_ood")
        if not tests or network != NETWORK or not feature_method(method):
            return loaders
        backbone = configured_backbone(config.network)
        return stored_loaders(loaders, backbone, cache_root(None))

    return get

"""A method of this package behind the interface of OpenOOD's postprocessors.

Without OpenOOD the class has a base class of this package and runs over the same loaders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from openood_interneg.data.encode import Views, encode_pixels
from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.data.store import Store
from openood_interneg.detectors.base import Detector
from openood_interneg.evaluation.protocols import FeatureSet, columns, stream_batches
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import StoredInverters
from openood_interneg.plugin.classes import check_loaders
from openood_interneg.plugin.loaders import (
    LoaderError,
    ids_of,
    labels_of,
    pixels,
    views_of_pixels,
    warn_foreign_preprocessing,
)
from openood_interneg.plugin.network import ClipZeroShot, as_clip
from openood_interneg.plugin.openood import config_value, is_installed, load_openood
from openood_interneg.plugin.progress import TextBar, batches
from openood_interneg.plugin.stored_loaders import cache_root, id_images, spread, stored_loader
from openood_interneg.plugin.sweep import SweptSettings, check_search
from openood_interneg.settings import IdImageSettings, merged

if is_installed():
    load_openood()
    from openood.postprocessors import BasePostprocessor
else:
    from openood_interneg.plugin.standalone import BasePostprocessor


class DetectorPostprocessor(SweptSettings, BasePostprocessor):
    """A method of the table behind OpenOOD's interface.

    Settings are checked when the object is built. `setup` mines the texts; `inference` starts a
    fresh stream, follows the network's device and draws random numbers by image name, so the
    result of an image does not depend on the batch it came in.

    Attributes:
        p_values: (n,) of the images of the last `postprocess` or `inference`, in their order, of a
            method that has p-values (RatioNeg); else None.

    Args:
        config: OpenOOD's config, or any mapping with its `postprocessor` block (`APS_mode`,
            `postprocessor_args`, `postprocessor_sweep`), or None for all defaults.
        class_names: only needed for a network that does not know its own.
        cache_dir: where features of texts and images are kept between runs; by default the
            package's cache, False keeps nothing.
        settings: single settings, over those of the config.

    Raises:
        SettingsError: unknown, ill-typed or out-of-range settings; a sweep over something that
            is no setting; `APS_mode` without a sweep.
    """

    # What `setup` makes of a network and its loaders; none of it is pickled.
    _clip: ClipZeroShot | None
    _train: Dataset[Any] | None
    _source: TextSpaceBuilder | None
    _detector: Detector | None
    _inverters: StoredInverters | None
    _seen: int  # images of the present stream
    p_values: np.ndarray | None
    cache_dir: str | Path | bool | None = None  # also for what was pickled before it had one

    def __init__(
        self,
        config: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        cache_dir: str | Path | bool | None = None,
        **settings: Any,
    ):
        block = config_value(config, "postprocessor") or {}
        args = merged(file=config_value(block, "postprocessor_args"), given=settings)
        sweep = dict(config_value(block, "postprocessor_sweep") or {})
        if config is None:  # what OpenOOD reads off an instance's config
            config = SimpleNamespace(
                postprocessor=SimpleNamespace(name=self.method.name, APS_mode=False)
            )
        super().__init__(config)
        source = f"the settings of '{self.method.name}'"
        self.settings = self.method.make_settings(args, source)
        self.APS_mode = bool(config_value(block, "APS_mode") or False)
        self.hyperparam_search_done = False
        self.setup_flag = False
        self._dataset = config_value(config_value(config, "dataset"), "name")
        self.class_names = None if class_names is None else tuple(class_names)
        self.cache_dir = cache_dir
        self.take_sweep(sweep)
        self._forget()

    def set_hyperparam(self, hyperparam: Sequence[Any]) -> None:
        """Takes values in the order of `args_dict`; fits anew where `setup` was done.

        Texts are mined again only where a setting of the text space changed.

        Raises:
            SettingsError: wrong number of values, or a value out of range.
        """
        super().set_hyperparam(hyperparam)
        self._detector = None

    def setup(
        self,
        net: nn.Module,
        id_loader_dict: Mapping[str, DataLoader],
        ood_loader_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Mines the negative texts and makes the image proxies; may be called again.

        Reads N training images per class, no validation and no OOD image.

        Raises:
            LoaderError: the method needs ID training images and there is no `train` loader, or
                they are not there; APS_mode without validation images.
            ClassesError: the network's classes are not those of the loaders.
        """
        net.eval()
        clip = as_clip(net, self._names())
        check_loaders(clip, id_loader_dict, self._dataset, given_names=self.class_names)
        if self.APS_mode and not self.hyperparam_search_done:
            splits = [id_loader_dict or {}, ood_loader_dict or {}]
            check_search(self.method.name, *("val" in split for split in splits))
        warn_foreign_preprocessing(clip, id_loader_dict)
        loader = (id_loader_dict or {}).get("train")
        dataset = None if loader is None else loader.dataset
        if self.setup_flag and self._clip is clip and self._train is dataset:
            return
        images = None
        if self.settings.reads_id_images:
            if loader is None:
                raise LoaderError(
                    f"method '{self.method.name}' needs ID training images for its image proxies; "
                    "the loaders have no 'train' entry"
                )
            images = id_images(loader, clip, None if spread(net) else cache_root(self.cache_dir))
            if isinstance(self.settings, IdImageSettings):
                images.look_for_files(self.settings)
        store = Store(cache_root(self.cache_dir))
        self._clip, self._train = clip, dataset
        self._source = TextSpaceBuilder(clip.clip, clip.class_names, images, store, TextBar())
        self._detector = None
        self.setup_flag = True
        _ = self.detector

    @property
    def detector(self) -> Detector:
        """The fitted detector, on the network's device.

        Raises:
            LoaderError: `setup` was not called.
        """
        if self._source is None or self._clip is None:
            raise LoaderError(f"'{self.method.name}' is not set up; call setup(net, loaders) first")
        device = self._clip.clip.device
        detector = self._detector
        if detector is None or detector.space.device != device:
            inverters = StoredInverters(self._source.store)
            detector = self.method.fitted(self.settings, self._source, inverters)
            self._detector, self._inverters, self._seen = detector, inverters, 0
        return detector

    def _stored(self, net: nn.Module, loader: DataLoader, progress: bool) -> DataLoader:
        """The loader with features from the store where it can be, else itself."""
        if self.method.features_of(self.settings) != "image" or spread(net):
            return loader
        backbone = as_clip(net, self._names()).clip
        return stored_loader(loader, backbone, cache_root(self.cache_dir), progress)

    def _names(self) -> Sequence[str] | str | None:
        return self.class_names or self._dataset

    def reset(self) -> None:
        """Starts a new stream."""
        self.detector.reset()
        self._seen = 0

    def encode(self, net: nn.Module, data: Tensor, ids: Tensor) -> Tensor:
        """Features as the method takes them, on the network's device; features pass through.

        Args:
            net: the network.
            data: images (B, 3, H, W), or features (B, D).
            ids: (B,) of the images.

        Returns:
            Unit features (B, D), or (V, B, D) for a method over views or patches.
        """
        backbone = as_clip(net, self._names()).clip
        if data.dim() == 2:
            return data.to(backbone.device)
        kind = self.method.features_of(self.settings)
        if isinstance(kind, Views):
            views = views_of_pixels(data, ids, backbone.preprocess, kind)
            return torch.stack([backbone.encode_image(view) for view in views])
        if kind == "image" and isinstance(net, nn.DataParallel):
            with torch.no_grad():
                return net(data, return_feature=True)[1].to(backbone.device)
        return encode_pixels(backbone, data, kind)

    def postprocess(self, net: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
        """Scores the next batch of the present stream.

        Args:
            data: images (B, 3, H, W), or features (B, D), or a whole batch of a loader. Without
                image names, images are told apart by their number in the stream.

        Returns:
            Predictions (B,) int64 and confidences (B,) float32, high = ID.
        """
        ids = ids_of(data, self._seen)
        detector = self.detector
        scores = detector.step(self.encode(net, pixels(data), ids), ids)
        self._seen += len(ids)
        self.p_values = None if scores.p is None else scores.p.cpu().numpy()
        return scores

    def inference(
        self, net: nn.Module, data_loader: DataLoader, progress: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores a loader as one fresh stream: numpy (pred, conf, label), in the loader's order."""
        self.reset()
        detector = self.detector
        labels: list[Tensor] = []

        def encode(batch: Any) -> tuple[Tensor, Tensor]:
            ids = ids_of(batch, self._seen)
            self._seen += len(ids)
            return self.encode(net, pixels(batch), ids), ids

        def encoded() -> Iterator[tuple[Tensor, Tensor]]:
            loader = self._stored(net, data_loader, progress)
            made = encoded_ahead(batches(loader, progress), encode, detector.space.device)
            for batch, (features, ids) in made:
                labels.append(labels_of(batch).cpu())
                yield features, ids

        stream = encoded()
        first = next(stream, None)
        if first is None:
            raise LoaderError("the data loader is empty")
        pred, conf, self.p_values = columns(stream_batches(detector, chain([first], stream)))
        self.flush()
        return pred.astype(int), conf, torch.cat(labels).numpy().astype(int)

    def flush(self) -> None:
        """Writes fresh inversions to the cache, so that other streams and runs find them."""
        if self._inverters is not None:
            self._inverters.flush()

    def feature_set(
        self, net: nn.Module, loader: DataLoader, name: str, progress: bool = True
    ) -> FeatureSet:
        """Encodes a loader once, so that it can be replayed in any order."""
        features: list[Tensor] = []
        ids: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in batches(self._stored(net, loader, progress), progress, name):
            ids.append(ids_of(batch, sum(map(len, ids))))
            features.append(self.encode(net, pixels(batch), ids[-1]))
            labels.append(labels_of(batch).cpu())
        if not ids:
            raise LoaderError(f"the loader of '{name}' is empty")
        every = torch.cat(labels).numpy().astype(np.int64)
        return FeatureSet(name, torch.cat(features, dim=-2), torch.cat(ids), every)

    def _forget(self) -> None:
        self._clip = self._train = self._source = self._detector = self._inverters = None
        self._seen, self.p_values = 0, None

    def __getstate__(self) -> dict[str, Any]:
        """Settings and flags; neither the network nor what `setup` made from it."""
        gone = ("_clip", "_train", "_source", "_detector", "_inverters", "_seen", "p_values")
        state = {k: v for k, v in self.__dict__.items() if k not in gone}
        return state | {"setup_flag": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

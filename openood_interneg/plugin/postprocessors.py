"""Every method of this package as a postprocessor of OpenOOD's.

One class does the work; each row of the table of methods has a subclass (`InterNegPostprocessor`,
`NegLabelPostprocessor`, ...), made below. Without OpenOOD the same classes stand on a base class
of their own and run over the same loaders.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from openood_interneg.data.encode import Views
from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.data.store import Store, default_root
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.evaluation.protocols import FeatureSet
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import StoredInverter, stored_inverter
from openood_interneg.plugin.classes import check_loaders
from openood_interneg.plugin.inputs import encode_patches, encode_views
from openood_interneg.plugin.loaders import (
    LoaderError,
    LoaderImages,
    batches,
    keys_of,
    labels_of,
    last_normalize,
    pixels,
)
from openood_interneg.plugin.network import ClipZeroShot, as_clip
from openood_interneg.plugin.openood import OpenOODMissing, load_openood
from openood_interneg.settings import SettingsError, as_mapping, merged, shown

try:
    load_openood()
    from openood.postprocessors import BasePostprocessor
except OpenOODMissing:

    class BasePostprocessor:
        """OpenOOD's interface, for use without OpenOOD."""

        def __init__(self, config: Any):
            self.config = config


SWEEP_SUFFIX = "_list"


class NamedValues(list):
    """A list of values that shows their names: `beta=0.35, tau=1.0`."""

    def __init__(self, names: Sequence[str], values: Sequence[Any]):
        super().__init__(values)
        self.names = tuple(names)

    def __repr__(self) -> str:
        return ", ".join(f"{n}={v!r}" for n, v in zip(self.names, self, strict=False))

    def __reduce__(self) -> tuple:
        return NamedValues, (self.names, list(self))


class DetectorPostprocessor(BasePostprocessor):
    """A method of the table behind OpenOOD's interface.

    Settings are checked when the object is built. `setup` mines the texts; `inference` starts a
    fresh stream, follows the network's device and draws random numbers by image name, so the
    result of an image does not depend on the batch it came in.

    Args:
        config: OpenOOD's config, or any mapping with its `postprocessor` block (`APS_mode`,
            `postprocessor_args`, `postprocessor_sweep`), or None for all defaults.
        class_names: only needed for a network that does not know its own.
        cache_dir: where text features are kept between runs; by default the package's cache,
            False keeps nothing.
        settings: single settings, over those of the config.

    Raises:
        SettingsError: unknown, ill-typed or out-of-range settings; a sweep over something that
            is no setting; `APS_mode` without a sweep.
    """

    method: ClassVar[Method]

    def __init__(
        self,
        config: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        cache_dir: str | Path | bool | None = None,
        **settings: Any,
    ):
        block = _get(config, "postprocessor") or {}
        args = merged(file=_get(block, "postprocessor_args"), given=settings)
        sweep = dict(_get(block, "postprocessor_sweep") or {})
        if config is None:  # what OpenOOD reads off an instance's config
            config = SimpleNamespace(
                postprocessor=SimpleNamespace(name=self.method.name, APS_mode=False)
            )
        super().__init__(config)
        source = f"the settings of '{self.method.name}'"
        self.settings = self.method.make_settings(args, source)
        self.APS_mode = bool(_get(block, "APS_mode") or False)
        self.hyperparam_search_done = False
        self.setup_flag = False
        self._dataset = _get(_get(config, "dataset"), "name")
        self.class_names = None if class_names is None else tuple(class_names)
        self._cache_dir = cache_dir
        self._sweep = self._checked_sweep(sweep)
        _ = self.args_dict  # APS without a sweep is refused here, not in OpenOOD's recursion
        self._forget()

    # ---- hyper-parameters ----------------------------------------------------------------

    @property
    def args_dict(self) -> dict[str, list[Any]]:
        """The sweep: `<setting>_list` -> values, in the order that `set_hyperparam` takes.

        Raises:
            SettingsError: APS_mode is on and there is nothing to search.
        """
        if self.APS_mode and not self._sweep:
            raise SettingsError(
                f"APS_mode is on for '{self.method.name}', but postprocessor_sweep is empty; give "
                "it lists (beta_list: [0.2, 0.35]), or set APS_mode: False"
            )
        return dict(self._sweep)

    def set_hyperparam(self, hyperparam: Sequence[Any]) -> None:
        """Takes values in the order of `args_dict`; fits anew where `setup` was done.

        Texts are mined again only where a setting of the text space changed.

        Raises:
            SettingsError: wrong number of values, or a value out of range.
        """
        names = self._swept
        if len(hyperparam) != len(names):
            takes = f"{len(names)}, of {', '.join(names)}" if names else "none: there is no sweep"
            raise SettingsError(
                f"set_hyperparam got {len(hyperparam)} values, {shown(list(hyperparam))}; "
                f"'{self.method.name}' takes {takes}"
            )
        values = as_mapping(self.settings) | dict(zip(names, hyperparam, strict=True))
        self.settings = self.method.make_settings(values, "the sweep")
        self._detector = None

    def get_hyperparam(self) -> list[Any]:
        """The present values of the swept settings, in the order of `args_dict`.

        OpenOOD prints what it found by this list, so it shows the names, too.
        """
        return NamedValues(self._swept, [getattr(self.settings, name) for name in self._swept])

    @property
    def _swept(self) -> list[str]:
        return [name.removesuffix(SWEEP_SUFFIX) for name in self._sweep]

    def _checked_sweep(self, sweep: Mapping[str, Any]) -> dict[str, list[Any]]:
        known = [name for name in as_mapping(self.settings) if name not in self.method.fixed]
        out = {}
        for name, values in sweep.items():
            setting = name.removesuffix(SWEEP_SUFFIX)
            if setting not in known:
                near = difflib.get_close_matches(setting, known, n=1)
                hint = f"; did you mean '{near[0]}{SWEEP_SUFFIX}'?" if near else ""
                raise SettingsError(f"the sweep '{name}' is over no setting of this method{hint}")
            if not isinstance(values, (list, tuple)) or not values:
                raise SettingsError(f"the sweep '{name}' is {values!r}; it takes a list of values")
            for value in values:
                self.method.make_settings({setting: value}, f"the sweep '{name}'")
            out[name] = list(values)
        return out

    # ---- setup ---------------------------------------------------------------------------

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
        check_loaders(clip, id_loader_dict, self._dataset, said=self.class_names)
        self._check_search(id_loader_dict, ood_loader_dict)
        _say_foreign_preprocessing(clip, id_loader_dict)
        loader = (id_loader_dict or {}).get("train")
        dataset = None if loader is None else loader.dataset
        if self.setup_flag and self._clip is clip and self._train is dataset:
            return
        images = None
        if self._needs_images():
            if loader is None:
                raise LoaderError(
                    f"method '{self.method.name}' needs ID training images for its image proxies; "
                    "the loaders have no 'train' entry"
                )
            images = LoaderImages(loader, clip)
            images.look_for_files(self.settings)
        root = default_root() if self._cache_dir in (None, True) else self._cache_dir or None
        store = Store(None if root is None else Path(root))
        self._clip, self._train = clip, dataset
        self._source = TextSpaceBuilder(clip.clip, clip.class_names, images, store, _TextBar())
        self._detector = None
        self.setup_flag = True
        _ = self.detector

    @property
    def detector(self) -> Detector:
        """The fitted detector, on the network's device.

        Raises:
            LoaderError: `setup` was not called.
        """
        if self._source is None:
            raise LoaderError(f"'{self.method.name}' is not set up; call setup(net, loaders) first")
        device = self._clip.clip.device
        if self._detector is None or self._detector.space.device != device:
            backbone = self._clip.clip
            space = self._source.space_for(self.method, self.settings).to(device)
            inverter = None
            if self.method.inverts:
                inverter = stored_inverter(backbone, self.settings, self._source.store)
            self._detector = self.method.make(self.settings, inverter).fit(space)
            self._inverter = inverter
            self._seen = 0
        return self._detector

    def _check_search(self, id_loaders: Any, ood_loaders: Any) -> None:
        if not self.APS_mode or self.hyperparam_search_done:
            return
        check_search(self.method.name, "val" in (id_loaders or {}), "val" in (ood_loaders or {}))

    def _needs_images(self) -> bool:
        return self.settings.reads_id_images

    def _names(self) -> Sequence[str] | str | None:
        return self.class_names or self._dataset

    def reset(self) -> None:
        """Starts a new stream."""
        self.detector.reset()
        self._seen = 0

    # ---- scoring -------------------------------------------------------------------------

    def encode(self, net: nn.Module, data: Tensor, keys: Tensor) -> Tensor:
        """What the method's features are of, on the network's device; features pass through.

        Args:
            data: images (B, 3, H, W), or features (B, D). keys: (B,) of the images.

        Returns:
            Unit features (B, D), or (V, B, D) for a method over views or patches.
        """
        backbone = as_clip(net, self._names()).clip
        if data.dim() == 2:
            return data.to(backbone.device)
        kind = self.method.features_of(self.settings)
        if isinstance(kind, Views):
            return encode_views(backbone, data, keys, kind)
        if kind == "patches":
            return encode_patches(backbone, data)
        if isinstance(net, nn.DataParallel):
            with torch.no_grad():
                return net(data, return_feature=True)[1].to(backbone.device)
        return backbone.encode_image(data)

    def postprocess(self, net: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
        """Scores the next batch of the present stream.

        Args:
            data: images (B, 3, H, W), or features (B, D), or a whole batch of a loader. Without
                image names, images are told apart by their number in the stream.

        Returns:
            Predictions (B,) int64 and confidences (B,) float32, high = ID.
        """
        keys = keys_of(data, self._seen)
        detector = self.detector
        scores = detector.step(self.encode(net, pixels(data), keys), keys)
        self._seen += len(keys)
        return scores

    def inference(
        self, net: nn.Module, data_loader: DataLoader, progress: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores a loader as one fresh stream: numpy (pred, conf, label), in the loader's order."""
        self.reset()
        preds, confs, labels = [], [], []

        def encode(batch: Any) -> tuple[Tensor, Tensor]:
            keys = keys_of(batch, self._seen)
            self._seen += len(keys)
            return self.encode(net, pixels(batch), keys), keys

        detector = self.detector
        for batch, (features, keys) in encoded_ahead(
            batches(data_loader, progress), encode, detector.space.device
        ):
            pred, conf = detector.step(features, keys)
            preds.append(pred.cpu())
            confs.append(conf.cpu())
            labels.append(labels_of(batch).cpu())
        if not preds:
            raise LoaderError("the data loader is empty")
        self.flush()
        return (
            torch.cat(preds).numpy().astype(int),
            torch.cat(confs).numpy(),
            torch.cat(labels).numpy().astype(int),
        )

    def flush(self) -> None:
        """Writes fresh inversions to the cache, so that other streams and runs find them."""
        if self._inverter is not None:
            self._inverter.flush()

    def feature_set(
        self, net: nn.Module, loader: DataLoader, name: str, progress: bool = True
    ) -> FeatureSet:
        """Encodes a loader once, so that it can be replayed in any order."""
        features, keys, labels = [], [], []
        for batch in batches(loader, progress, name):
            keys.append(keys_of(batch, sum(map(len, keys))))
            features.append(self.encode(net, pixels(batch), keys[-1]))
            labels.append(labels_of(batch).cpu())
        if not keys:
            raise LoaderError(f"the loader of '{name}' is empty")
        every = torch.cat(labels).numpy().astype(np.int64)
        return FeatureSet(name, torch.cat(features, dim=-2), torch.cat(keys), every)

    # ---- pickling ------------------------------------------------------------------------

    def _forget(self) -> None:
        self._clip: ClipZeroShot | None = None
        self._train = None
        self._source: TextSpaceBuilder | None = None
        self._detector: Detector | None = None
        self._inverter: StoredInverter | None = None
        self._seen = 0

    def __getstate__(self) -> dict[str, Any]:
        """Settings and flags; neither the network nor what `setup` made from it."""
        gone = ("_clip", "_train", "_source", "_detector", "_inverter", "_seen")
        state = {k: v for k, v in self.__dict__.items() if k not in gone}
        return state | {"setup_flag": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class _TextBar:
    """Progress of text encoding, one bar per kind of text, shown while there is something."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if what not in self._bars:
            self._bars[what] = tqdm(total=total, desc=f"encoding {what}", disable=None)
        bar = self._bars[what]
        bar.update(done)
        if bar.n >= total:
            self._bars.pop(what).close()


def check_search(name: str, id_val: bool, ood_val: bool) -> None:
    """A search over settings (`APS_mode`) needs ID and OOD validation images.

    Raises:
        LoaderError: naming the blocks that the benchmark lacks.
    """
    blocks = {"dataset.val": id_val, "ood_dataset.val": ood_val}
    lacking = [block for block, present in blocks.items() if not present]
    if lacking:
        raise LoaderError(
            f"APS_mode is on for '{name}': it searches the sweep on validation images, and the "
            f"benchmark has no {' and no '.join(lacking)}; add to its YAML "
            f"{' and '.join(lacking)} (data_dir, imglist_pth; for main.py list 'val' in "
            "split_names, too), or set APS_mode: False"
        )


def _say_foreign_preprocessing(clip: ClipZeroShot, loaders: Mapping[str, Any] | None) -> None:
    """Warns of images that were normalised for another network."""
    own = clip.clip.preprocess
    for loader in (loaders or {}).values():
        normalize = last_normalize(getattr(loader, "dataset", None))
        if normalize is None:
            continue
        theirs = [tuple(map(float, values)) for values in (normalize.mean, normalize.std)]
        if not np.allclose(theirs, [own.mean, own.std], atol=1e-3):
            warnings.warn(
                f"the images are normalised with mean {theirs[0]} and deviation {theirs[1]}, and "
                f"this network was trained with {own.mean} and {own.std}: pass "
                "preprocessor=net.clip.preprocess.transform() (main.py: "
                "configs/preprocessors/clip.yml)",
                stacklevel=3,
            )
            return


def _get(block: Any, name: str) -> Any:
    """A value of OpenOOD's Config, a mapping or a namespace; None where there is none."""
    if isinstance(block, Mapping):
        return block[name] if name in block else None  # noqa: SIM401 - Config.get ignores dots
    return getattr(block, name, None)


def class_name(method: Method) -> str:
    """`InterNegPostprocessor` for interneg, `InterNegNegativesOnlyPostprocessor`, ..."""
    stem = method.detector.__name__
    rest = method.name.removeprefix(stem.lower())
    if rest == method.name:
        stem = ""
    return stem + "".join(part.title() for part in rest.split("_")) + "Postprocessor"


def postprocessor_class(name: str) -> type[DetectorPostprocessor]:
    """The postprocessor class of a method, also of one that was registered later.

    Raises:
        SettingsError: unknown name.
    """
    method = get_method(name)
    known = globals().get(class_name(method))
    if known is not None and known.method is method:
        return known
    made = type(
        class_name(method),
        (DetectorPostprocessor,),
        {
            "__module__": __name__,
            "__doc__": f"{method.title} ({method.venue} {method.year}, {method.paper}).",
            "method": method,
        },
    )
    globals()[made.__name__] = made  # where pickle looks for it
    return made


def all_postprocessors() -> dict[str, type[DetectorPostprocessor]]:
    """Method name -> postprocessor class, for all methods of the table."""
    return {method.name: postprocessor_class(method.name) for method in list_methods()}


all_postprocessors()


def configured(name: str, **settings: Any) -> DetectorPostprocessor:
    """A postprocessor by method name, with its defaults and some settings."""
    return postprocessor_class(name)(**settings)


__all__ = [
    "BasePostprocessor",
    "DetectorPostprocessor",
    "all_postprocessors",
    "class_name",
    "configured",
    "postprocessor_class",
    *(cls.__name__ for cls in all_postprocessors().values()),
]

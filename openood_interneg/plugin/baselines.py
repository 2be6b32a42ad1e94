"""OpenOOD's own postprocessors on a zero-shot CLIP: which run, with what arguments, and why not.

They are OpenOOD's classes, untouched. Images are encoded once: all but the methods that need
gradients with respect to the image get features and the last layer (`ClipZeroShot.head`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from openood_interneg.evaluation.protocols import FeatureSet
from openood_interneg.plugin.baseline_table import Baseline, BaselineError, get_baseline
from openood_interneg.plugin.device import network_device, redirect_cuda
from openood_interneg.plugin.loaders import pixels
from openood_interneg.plugin.network import ClipHead, ClipZeroShot, as_clip
from openood_interneg.plugin.openood import MissingPackage, load_openood
from openood_interneg.plugin.stored_loaders import cache_root, spread, stored_loader
from openood_interneg.vlm.preprocess import CLIP_MEAN, CLIP_STD

Data = DataLoader | FeatureSet


def principal_dim(feature_size: int) -> int:
    """Dimension of ViM's principal space: its paper's rule, half the features for small ones."""
    for least, dim in ((2048, 1000), (768, 512)):
        if feature_size >= least:
            return dim
    return feature_size // 2


def make_baseline(
    name: str,
    net: nn.Module,
    *,
    dataset: str | None = None,
    num_train: int | None = None,
    APS_mode: bool = False,
    **args: Any,
) -> tuple[Any, nn.Module]:
    """OpenOOD's postprocessor with arguments that fit a CLIP, and the network to give it.

    Args:
        name: OpenOOD's name.
        net: a CLIP network, or its head.
        dataset: name under which the number of classes and the standard deviation of the pixels
            are found; by default one is made up.
        num_train: number of images that the method is fitted to; bounds the K of the
            nearest-neighbour methods.
        APS_mode: whether OpenOOD searches over the method's arguments.
        args: arguments over OpenOOD's defaults.

    Raises:
        BaselineError: refused, or impossible with these class names.
    """
    row = get_baseline(name)
    load_openood()
    from openood.evaluation_api.postprocessor import postprocessors
    from openood.postprocessors.info import num_classes_dict
    from openood.preprocessors.transform import normalization_dict
    from openood.utils import Config

    head = net if isinstance(net, ClipHead) else as_clip(net)
    if name == "fdbd" and len(torch.unique(head.fc.weight, dim=0)) < head.num_classes:
        raise BaselineError(
            "OpenOOD's 'fdbd' divides by the distance of two classes' weights, and two of these "
            "class names have the same text; rename one"
        )
    dataset = dataset or f"clip_zeroshot_{head.num_classes}"
    if dataset not in num_classes_dict:
        num_classes_dict[dataset] = head.num_classes
    if dataset not in normalization_dict:
        normalization_dict[dataset] = [list(CLIP_MEAN), list(CLIP_STD)]
    args = dict(row.args) | args
    if "dim" in args and args["dim"] is None:
        args["dim"] = principal_dim(head.feature_size)
    if "K" in args and num_train is not None:
        args["K"] = min(args["K"], num_train)
    block = {"name": name, "APS_mode": APS_mode, "postprocessor_args": args}
    if not args:  # OpenOOD's Config drops an empty block
        del block["postprocessor_args"]
    with redirect_cuda(network_device(net)):
        made = postprocessors[name](Config(postprocessor=block, dataset={"name": dataset}))
    made.APS_mode, made.hyperparam_search_done = APS_mode, False
    if row.wrapper:
        module, cls = row.wrapper
        net = getattr(import_module(f"openood.networks.{module}"), cls)(net).eval()
    return made, net


def run_baseline(
    name: str,
    net: nn.Module,
    id_train: Data | None,
    id_val: Data | None,
    id_test: Data,
    ood_sets: Mapping[str, Data],
    *,
    batch_size: int = 256,
    progress: bool = False,
    cache_dir: str | Path | bool | None = None,
    **args: Any,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Fits one of OpenOOD's postprocessors and scores an ID and any number of OOD sets.

    None of these methods has a memory, so the scores are those of either protocol. They run on
    the network's device.

    Args:
        name: OpenOOD's name (`BASELINES`).
        net: `ClipZeroShot` (or what wraps one).
        id_train: `FeatureSet` (cached features), or a loader of OpenOOD's batches. Methods with
            `pixels` need loaders of images.
        id_val: the same; without it `id_train` is used.
        id_test: the same.
        ood_sets: name -> the same.
        batch_size: images per step.
        progress: whether OpenOOD's output and progress bars are shown.
        cache_dir: where features of loaders' images are kept; by default the package's cache,
            False keeps nothing.
        args: arguments over OpenOOD's defaults.

    Returns:
        "id" and each OOD set's name -> numpy (pred int64, conf float, label int64); OOD is -1.

    Raises:
        BaselineError: refused; a split is missing; features where images are needed; a package
            is missing; a score that is not finite.
    """
    row = get_baseline(name)
    clip = as_clip(net)
    splits = {"train": id_train, "val": id_val if id_val is not None else id_train, "test": id_test}
    for split in row.fits:
        if splits[split] is None:
            raise BaselineError(
                f"OpenOOD's '{name}' is fitted to ID {split} images; this benchmark gives none"
            )
    target: nn.Module = clip if row.pixels else clip.head()
    root = None if spread(net) else cache_root(cache_dir)
    loaders = {
        k: _loader(v, clip, row, batch_size, f"ID {k}", root)
        for k, v in splits.items()
        if v is not None and (k in row.fits or k == "test")
    }
    train: Any = loaders["train"].dataset if "train" in loaders else None
    num_train = None if train is None else len(train)
    quiet = contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO())
    bars = contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO())
    with redirect_cuda(network_device(clip)), quiet, bars:
        try:
            method, target = make_baseline(name, target, num_train=num_train, **args)
            method.setup(target, loaders, {})
            after_setup(name, method)
            out = {"id": _scores(row, method, target, loaders["test"], progress)}
            for ood_name, data in ood_sets.items():
                loader = _loader(data, clip, row, batch_size, ood_name, root)
                pred, conf, label = _scores(row, method, target, loader, progress)
                out[ood_name] = (pred, conf, np.full_like(label, -1))
        except MissingPackage as error:
            raise BaselineError(f"OpenOOD's '{name}' cannot run here: {error}") from error
    return out


def after_setup(name: str, method: Any) -> None:
    """Does what OpenOOD does only in a search: gives AdaScale its own arguments."""
    if name.startswith("adascale"):
        names = ("percentile", "k1", "k2", "lmbda", "o")
        method.set_hyperparam([getattr(method.args, name) for name in names])


class MemoryLoader:
    """Batches in OpenOOD's form from tensors; every batch is a copy, as methods write into it."""

    def __init__(self, data: Tensor, labels: np.ndarray, batch_size: int):
        self.data, self.labels, self.batch_size = data, torch.as_tensor(labels), batch_size
        self.dataset = range(len(data))

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for begin in range(0, len(self.data), self.batch_size):
            part = slice(begin, begin + self.batch_size)
            yield {"data": self.data[part].clone(), "label": self.labels[part].clone()}


Loader = DataLoader | MemoryLoader
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]  # pred, conf, label


def _loader(
    data: Data, clip: ClipZeroShot, row: Baseline, batch_size: int, what: str, root: Path | None
) -> Loader:
    if isinstance(data, FeatureSet):
        if row.pixels:
            raise BaselineError(
                f"OpenOOD's '{row.name}' needs gradients with respect to the image; give loaders "
                "of images, not features"
            )
        return MemoryLoader(data.features, data.labels, batch_size)
    if row.pixels:
        return data
    features, labels = [], []
    for batch in stored_loader(data, clip.clip, root):
        images = pixels(batch)
        features.append(clip.clip.encode_image(images) if images.dim() > 2 else images)
        labels.append(torch.as_tensor(batch["label"]))
    if not features:
        raise BaselineError(f"the loader of '{what}' is empty")
    return MemoryLoader(torch.cat(features), torch.cat(labels).numpy(), batch_size)


def _scores(row: Baseline, method: Any, net: nn.Module, loader: Loader, progress: bool) -> Scores:
    pred, conf, label = method.inference(net, loader, progress)
    conf = np.asarray(conf)
    if np.iscomplexobj(conf):
        conf = conf.real
    if not np.isfinite(conf).all():
        raise BaselineError(
            f"OpenOOD's '{row.name}' gives NaN or infinity for "
            f"{int((~np.isfinite(conf)).sum())} of {len(conf)} images; often a class is without "
            "any, or any correctly predicted, image among those the method was fitted to"
        )
    if not row.own_pred:
        with torch.no_grad():
            pred = torch.cat([net(batch["data"]).argmax(dim=1).cpu() for batch in loader]).numpy()
    return pred.astype(np.int64), conf, label.astype(np.int64)

"""OpenOOD's evaluators with the paper's protocol, on any device.

`Evaluator` is for the evaluation API, `MixedOODEvaluator` for main.py (`evaluator.name: mixed`).
Both print and return what OpenOOD's own do.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.evaluation.protocols import Protocol, check_protocol
from openood_interneg.plugin.baseline_table import (
    BASELINES,
    BaselineError,
    get_baseline,
    is_baseline,
)
from openood_interneg.plugin.baselines import after_setup, make_baseline
from openood_interneg.plugin.benchmarks import data_is_there, look_for_data
from openood_interneg.plugin.classes import check_classes
from openood_interneg.plugin.detector_postprocessor import DetectorPostprocessor
from openood_interneg.plugin.device import network_device, redirect_cuda
from openood_interneg.plugin.evaluator_parts import (
    NamedSearch,
    check_count,
    look_for_csid,
    method_name,
    note_incomparable,
    skip_second_image,
    stream_metrics,
)
from openood_interneg.plugin.network import (
    as_clip,
    inner_clip,
    known_class_names,
    own_preprocessing,
)
from openood_interneg.plugin.openood import MissingPackage, load_openood
from openood_interneg.plugin.patching import check_name
from openood_interneg.plugin.register import config_root as packaged_configs
from openood_interneg.plugin.register import find_benchmark, register
from openood_interneg.plugin.stored_evaluators import on_features
from openood_interneg.plugin.streams import COLUMNS, MixedStreams, Triple, make_streams
from openood_interneg.plugin.sweep import check_search

load_openood()
import openood.evaluation_api as _api  # noqa: E402
import openood.evaluation_api.datasets as _datasets  # noqa: E402
import openood.evaluation_api.postprocessor as _methods  # noqa: E402


class Evaluator(NamedSearch, _api.Evaluator):
    """OpenOOD's `Evaluator` with a choice of protocol; it follows the network's device.

    Args:
        net: `ClipZeroShot`, or any network that OpenOOD takes.
        id_name: OpenOOD's (cifar10, cifar100, imagenet200, imagenet), or one of our benchmarks.
        data_root: folder with images_*/ and benchmark_imglist/; by default `./data`, and for a
            benchmark of your own what it was registered with. Nothing is downloaded.
        config_root: by default this package's, and OpenOOD's checkout for its own methods.
        preprocessor: by default the network's own where it is a CLIP.
        postprocessor_name: a method of this package, or one of OpenOOD's, whose arguments then
            come from `plugin.baseline_table` unless `config_root` has a YAML for it.
        postprocessor: an instance instead of a name.
        protocol: "mixed", the paper's: every OOD set shuffled together with the ID test images,
            the memory of a method cleared before; or "openood", OpenOOD's own: the ID images
            first, then each OOD set, a fresh memory for each. A method with a memory gives other,
            incomparable figures under the second.
        seed: of the order of the mixed streams.
        batch_size: images per step.
        shuffle: as in OpenOOD.
        num_workers: as in OpenOOD.
        cache_dir: where image features are kept for OpenOOD's methods and the accuracy; by default
            the package's cache, False keeps nothing. Our postprocessors have their own.

    Raises:
        BenchmarkError: unknown benchmark; lists or images that are not there.
        ClassesError: the network's classes are not those of the benchmark.
        SettingsError: unknown method, or a setting out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        id_name: str,
        data_root: str | Path | None = None,
        config_root: str | None = None,
        preprocessor: Callable | None = None,
        postprocessor_name: str | None = None,
        postprocessor: Any = None,
        batch_size: int = 256,
        shuffle: bool = False,
        num_workers: int = 4,
        *,
        protocol: Protocol = "mixed",
        seed: int = 0,
        cache_dir: str | Path | bool | None = None,
    ):
        self.cache_dir = cache_dir
        check_protocol(protocol)
        check_count("seed", seed, 0)
        check_count("batch_size", batch_size, 1)
        register()
        info, data_root = _entry(id_name, data_root)
        given_names = getattr(postprocessor, "class_names", None)
        names = known_class_names(id_name) if given_names is None else given_names
        if inner_clip(net) is not None:
            check_classes(as_clip(net, names), id_name, info["num_classes"], given_names)
        self.protocol, self.seed, self.batch_size = protocol, seed, batch_size
        self._device = network_device(net)
        config_root = str(config_root or packaged_configs())
        name = postprocessor_name
        if postprocessor is None and name is not None:
            check_name("postprocessor", name, {*_methods.postprocessors, *BASELINES})
        baseline = None  # a method of OpenOOD's, by name
        if postprocessor is None and name is not None and is_baseline(name):
            baseline = name
        reads = () if baseline is None else get_baseline(baseline).fits
        look_for_data(id_name, info, data_root, reads)
        own = own_preprocessing(net, names)
        if preprocessor is None:
            preprocessor = own
        self._stateless = baseline is not None
        if baseline is not None and own is not None and not _has_yaml(config_root, baseline):
            postprocessor, net = make_baseline(baseline, net, dataset=id_name)
        if postprocessor is not None:
            name = None
        with redirect_cuda(self._device), _explained(postprocessor_name), _use(id_name, info):
            super().__init__(
                net,
                id_name,
                data_root=str(data_root),
                config_root=config_root,
                preprocessor=preprocessor,
                postprocessor_name=name,
                postprocessor=postprocessor,
                batch_size=batch_size,
                shuffle=shuffle,
                num_workers=num_workers,
            )
            if baseline is not None and not self.postprocessor.hyperparam_search_done:
                after_setup(baseline, self.postprocessor)
        if isinstance(self.postprocessor, DetectorPostprocessor) or self._stateless:
            skip_second_image(self.dataloader_dict)
        self.id_scores: dict[str, Triple] = {}

    def eval_acc(self, data_name: str = "id") -> float:
        """Accuracy in percent of `net(x).argmax(1)`, as OpenOOD defines it."""
        with redirect_cuda(self._device):
            return super().eval_acc(data_name)

    @on_features
    def eval_ood(self, fsood: bool = False, progress: bool = True) -> pd.DataFrame:
        """The table of OpenOOD: a row per OOD set, then the group's mean; percent.

        After a mixed evaluation `scores["ood"][group][set]` are an OOD set's scores and
        `id_scores[set]` those of the ID images in the same stream.
        """
        groups = {g: self.dataloader_dict["ood"][g] for g in ("near", "far")}
        if fsood:
            look_for_csid(self.id_name, self.dataloader_dict["csid"])
        task = "fsood" if fsood else "ood"
        if self.protocol == "openood":
            note_incomparable(self.postprocessor)
        with redirect_cuda(self._device), _explained(None):
            if self.protocol == "openood" and all(groups.values()):
                return super().eval_ood(fsood, progress)
            if self.metrics[task] is None:
                self.metrics[task] = self._table(groups, fsood, progress)
        print(self.metrics[task].to_string(float_format="{:,.2f}".format))
        return self.metrics[task]

    def hyperparam_search(self) -> None:
        """OpenOOD's search, on the network's device.

        Raises:
            LoaderError: the benchmark has no validation images.
        """
        loaders = self.dataloader_dict
        name = method_name(self.postprocessor)
        self.searched = self.postprocessor
        check_search(name, "val" in loaders["id"], "val" in loaders["ood"])
        with redirect_cuda(self._device):
            super().hyperparam_search()

    def _table(self, groups: Mapping[str, dict], fsood: bool, progress: bool) -> pd.DataFrame:
        self.net.eval()
        id_name = "csid" if fsood else "id"
        loaders = {f"{self.id_name}_test": self.dataloader_dict["id"]["test"]}
        if fsood:
            loaders |= {f"csid_{n}": dl for n, dl in self.dataloader_dict["csid"].items()}
        streams = make_streams(
            self.protocol,
            self.net,
            self.postprocessor,
            loaders,
            seed=self.seed,
            batch_size=self.batch_size,
            stateless=self._stateless,
            progress=progress,
        )
        rows, index = [], []
        for group, sets in groups.items():
            if not sets:
                continue
            values = []
            for name, loader in sets.items():
                print(f"Performing inference on {name} ({self.protocol})...", flush=True)
                id_scores, ood_scores = streams.run(name, loader)
                self.id_scores[name] = id_scores
                self.scores["ood"][group][name] = list(ood_scores)
                values.append(stream_metrics(id_scores, ood_scores, self.postprocessor))
                self._print_metrics(values[-1])
            rows += [*values, np.mean(values, axis=0)]
            index += [*sets, f"{group}ood"]
        self._take_predictions(streams)
        if self.metrics[f"{id_name}_acc"] is None:
            self.eval_acc(id_name)
        table = 100 * np.asarray(rows, dtype=float)
        table[:, -1] = self.metrics[f"{id_name}_acc"]
        return pd.DataFrame(table, index=index, columns=list(COLUMNS))

    def _take_predictions(self, streams: MixedStreams) -> None:
        """Takes predictions from stored features, so that the accuracy needs no second pass."""
        for name, found in streams.sets.items():
            with torch.no_grad():
                whole = found.features if found.features.dim() == 2 else found.features[0]
                preds = as_clip(self.net).fc(whole).argmax(dim=1).cpu()
            labels = torch.from_numpy(found.labels)
            if name == f"{self.id_name}_test":
                self.scores["id_preds"], self.scores["id_labels"] = preds, labels
            elif name.removeprefix("csid_") in self.scores["csid_preds"] and name[:5] == "csid_":
                self.scores["csid_preds"][name[5:]] = preds
                self.scores["csid_labels"][name[5:]] = labels


def _entry(id_name: str, data_root: str | Path | None) -> tuple[dict[str, Any], str]:
    """A benchmark's entry in OpenOOD's table, and the folder its paths are below.

    A `data_root` that is given counts, also for a benchmark that was registered with another.
    """
    if id_name not in _datasets.DATA_INFO:
        known = sorted(_datasets.DATA_INFO)
        near = difflib.get_close_matches(str(id_name), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise BenchmarkError(
            f"no benchmark {id_name!r}; {hint} Your own: plugin.register_benchmark('mine.yml')"
        )
    own = find_benchmark(id_name)
    if own is not None and data_root is not None and own.root is not None:
        below = Path(data_root).expanduser().absolute()
        return own.info_below(below), str(below)
    root = "./data" if data_root is None else str(Path(data_root).expanduser())
    return _datasets.DATA_INFO[id_name], root


@contextlib.contextmanager
def _use(id_name: str, info: dict[str, Any]) -> Iterator[None]:
    """Inside the block OpenOOD finds this entry, whose data has been checked already."""
    before = _datasets.DATA_INFO[id_name]
    _datasets.DATA_INFO[id_name] = info
    try:
        with data_is_there():
            yield
    finally:
        _datasets.DATA_INFO[id_name] = before


@contextlib.contextmanager
def _explained(name: str | None) -> Iterator[None]:
    """A missing optional package becomes a reason not to run this method."""
    try:
        yield
    except MissingPackage as error:
        raise BaselineError(f"OpenOOD's '{name or 'method'}' cannot run here: {error}") from error


def _has_yaml(root: str, name: str) -> bool:
    return Path(root, "postprocessors", f"{name}.yml").is_file()

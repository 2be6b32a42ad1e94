"""The two protocols for postprocessors, with OpenOOD or without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset

from openood_interneg.evaluation.metrics import ood_metrics
from openood_interneg.evaluation.protocols import (
    FeatureSet,
    Protocol,
    check_protocol,
    mixed_order,
    run_mixed,
)
from openood_interneg.plugin.loaders import like
from openood_interneg.plugin.postprocessors import DetectorPostprocessor

COLUMNS = ("FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC")

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]  # pred, conf, label, as OpenOOD orders them


class MixedStreams:
    """Scores OOD sets one after the other, each mixed with the same ID images.

    A postprocessor of this package encodes every image once; its memory starts fresh for every
    OOD set. One without a memory gives an image the same score in any order, so every loader is
    scored once. Any other postprocessor gets the images in the mixed order, and the ID images again
    for every set.

    Args:
        net: the network.
        postprocessor: set up with it.
        id_loaders: name -> loader of ID images; usually the test set alone.
        seed: of the order.
        batch_size: images per step of the stream.
        stateless: whether the postprocessor has no memory; ignored for this package's own.
    """

    def __init__(
        self,
        net: nn.Module,
        postprocessor: Any,
        id_loaders: Mapping[str, DataLoader],
        *,
        seed: int = 0,
        batch_size: int = 256,
        stateless: bool = False,
        progress: bool = True,
    ):
        self.net, self.postprocessor, self.id_loaders = net, postprocessor, dict(id_loaders)
        self.seed, self.batch_size, self.progress = seed, batch_size, progress
        self.stateless = stateless
        self.sets: dict[str, FeatureSet] = {}
        self._scores: dict[str, Triple] = {}

    def run(self, name: str, ood_loader: DataLoader) -> tuple[Triple, Triple]:
        """ID and OOD scores of one stream, each in the order of its list; OOD labels are -1."""
        if isinstance(self.postprocessor, DetectorPostprocessor):
            id_scores, ood_scores = self._replayed(name, ood_loader)
        elif self.stateless:
            id_scores = _joined([self.scored(n, loader) for n, loader in self.id_loaders.items()])
            ood_scores = self.scored(name, ood_loader)
        else:
            id_scores, ood_scores = self._through_loader(ood_loader)
        pred, conf, label = ood_scores
        return id_scores, (pred, conf, np.full_like(label, -1))

    def feature_set(self, name: str, loader: DataLoader) -> FeatureSet:
        """The features of a loader, encoded at the first call."""
        if name not in self.sets:
            self.sets[name] = self.postprocessor.feature_set(self.net, loader, name, self.progress)
        return self.sets[name]

    def _replayed(self, name: str, ood_loader: DataLoader) -> tuple[Triple, Triple]:
        parts = [self.feature_set(n, loader) for n, loader in self.id_loaders.items()]
        id_set = FeatureSet(
            "id",
            torch.cat([part.features for part in parts], dim=-2),
            torch.cat([part.ids for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
        ood_set = self.feature_set(name, ood_loader)
        run = run_mixed(self.postprocessor.detector, id_set, ood_set, self.seed, self.batch_size)
        self.postprocessor.flush()
        ood_pred = np.full(len(ood_set), -1)  # no class is right for these
        return (run.id_pred, run.id_score, id_set.labels), (ood_pred, run.ood_score, ood_set.labels)

    def scored(self, name: str, loader: DataLoader) -> Triple:
        """Scores of a loader as a stream of its own, computed at the first call."""
        if name not in self._scores:
            self._scores[name] = self.postprocessor.inference(self.net, loader, self.progress)
        return self._scores[name]

    def _through_loader(self, ood_loader: DataLoader) -> tuple[Triple, Triple]:
        sets: list[Any] = [loader.dataset for loader in self.id_loaders.values()]
        ood: Any = ood_loader.dataset
        num_id = sum(map(len, sets))
        order = mixed_order(num_id, len(ood), self.seed)
        mixed: Subset[Any] = Subset(ConcatDataset([*sets, ood]), order.tolist())
        loader = like(ood_loader, mixed, self.batch_size)
        scores = self.postprocessor.inference(self.net, loader, self.progress)
        back = np.argsort(order)
        pred, conf, label = (values[back] for values in scores)
        return (
            (pred[:num_id], conf[:num_id], label[:num_id]),
            (pred[num_id:], conf[num_id:], label[num_id:]),
        )


class OrderedStreams(MixedStreams):
    """OpenOOD's protocol: every loader is a stream of its own, with a fresh memory."""

    def run(self, name: str, ood_loader: DataLoader) -> tuple[Triple, Triple]:
        """ID and OOD scores; those of the ID images are the same for every OOD set."""
        id_scores = _joined([self.scored(n, loader) for n, loader in self.id_loaders.items()])
        pred, conf, label = self.scored(name, ood_loader)
        return id_scores, (pred, conf, np.full_like(label, -1))


def make_streams(protocol: Protocol, *args: Any, **options: Any) -> MixedStreams:
    """The streams of a protocol; arguments as for `MixedStreams`.

    Raises:
        SettingsError: unknown protocol.
    """
    check_protocol(protocol)
    return (MixedStreams if protocol == "mixed" else OrderedStreams)(*args, **options)


def evaluate(
    net: nn.Module,
    postprocessor: DetectorPostprocessor,
    id_loaders: Mapping[str, DataLoader],
    ood_loaders: Mapping[str, Mapping[str, DataLoader]],
    *,
    protocol: Protocol = "mixed",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluates a postprocessor over loaders, without OpenOOD.

    Args:
        net: `ClipZeroShot`.
        postprocessor: of this package.
        id_loaders: "train" (where the method needs ID images) and "test".
        ood_loaders: group ("near", "far") -> set -> loader.
        protocol: as for the evaluator, like seed and batch_size.

    Returns:
        The table of OpenOOD: a row per OOD set, then the group's mean; percent.
    """
    postprocessor.setup(net, id_loaders, ood_loaders)
    streams = make_streams(
        protocol,
        net,
        postprocessor,
        {"id": id_loaders["test"]},
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    rows: dict[str, dict[str, float]] = {}
    for group, sets in ood_loaders.items():
        members = []
        for name, loader in sets.items():
            (pred, id_conf, label), (_, ood_conf, _) = streams.run(name, loader)
            rows[name] = ood_metrics(id_conf, ood_conf, pred, label)
            members.append(rows[name])
        if members:
            rows[f"{group}ood"] = {c: float(np.mean([m[c] for m in members])) for c in COLUMNS}
    return pd.DataFrame.from_dict(rows, orient="index")[list(COLUMNS)]


def _joined(scores: list[Triple]) -> Triple:
    pred, conf, label = (np.concatenate(values) for values in zip(*scores, strict=True))
    return pred, conf, label

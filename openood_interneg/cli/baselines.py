"""OpenOOD's own postprocessors as rows of `interneg eval`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
from torch.utils.data import DataLoader, Dataset

from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.images import ImageError, ImageFiles
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.protocols import FeatureSet, Run
from openood_interneg.negatives.proxies import sample_per_class

# Methods that fit to the training images get all of them up to here, else some of each class.
TRAIN_LIMIT = 50_000
TRAIN_PER_CLASS = 50


def check_openood_methods(names: Sequence[str]) -> None:
    """Refuses, before any work, what cannot run.

    Raises:
        BaselineError: a method that means nothing on a zero-shot CLIP, or whose package is
            missing. OpenOODError: OpenOOD is not installed.
    """
    if not names:
        return
    from openood_interneg.plugin.baseline_table import BaselineError, get_baseline
    from openood_interneg.plugin.openood import load_openood

    load_openood()
    for name in names:
        row = get_baseline(name)
        if row.package and importlib.util.find_spec(row.package) is None:
            raise BaselineError(
                f"OpenOOD's '{name}' needs the package '{row.package}', which is not installed; "
                f"install it, or leave {name} out"
            )


def run_openood_method(
    evaluation: Evaluation, name: str, protocol: str, seeds: Sequence[int], batch_size: int
) -> str:
    """Adds the rows of one of OpenOOD's methods; returns its footnote, or "".

    None of them has a memory, so the figures are the same for every seed and protocol.

    Raises:
        BaselineError: refused, with the reason. OpenOODMissing: OpenOOD is not installed.
    """
    from openood_interneg.plugin.baseline_table import get_baseline
    from openood_interneg.plugin.baselines import run_baseline
    from openood_interneg.plugin.network import ClipZeroShot

    row = get_baseline(name)
    benchmark, labels = evaluation.benchmark, evaluation.source.labels("nice")
    net = ClipZeroShot(evaluation.backbone, benchmark.class_names, labels=labels)
    id_set = evaluation.feature_set(benchmark.test)
    ood_sets = [evaluation.feature_set(images) for images in benchmark.ood]
    train = _train(evaluation, row.pixels, batch_size) if row.fits else None
    test: FeatureSet | DataLoader
    ood: dict[str, FeatureSet | DataLoader]
    if row.pixels:
        test = _loader(evaluation, benchmark.test, batch_size)
        ood = {images.name: _loader(evaluation, images, batch_size) for images in benchmark.ood}
    else:
        test, ood = id_set, {images.name: images for images in ood_sets}
    found = run_baseline(name, net, train, None, test, ood, batch_size=batch_size)
    pred, conf, _ = found["id"]
    of_ood = [found[images.name] for images in ood_sets]
    runs = [Run(pred, conf, ood_conf, ood_pred) for ood_pred, ood_conf, _ in of_ood]
    for seed in seeds:
        evaluation.add(name, protocol, seed, id_set, ood_sets, runs)
    return row.note


def _train(evaluation: Evaluation, pixels: bool, batch_size: int) -> FeatureSet | DataLoader | None:
    train = evaluation.benchmark.train
    if train is None:
        return None
    if len(train) > TRAIN_LIMIT:
        classes = len(evaluation.benchmark.class_names)
        train = train.subset(sample_per_class(train.labels, classes, TRAIN_PER_CLASS))
    if pixels:
        return _loader(evaluation, train, batch_size)
    features = evaluation.encoder.features(train)
    return FeatureSet("train", features, image_ids(train.paths), train.labels)


class _OpenOODImages(Dataset):
    """An image list as OpenOOD's batches: dictionaries with data, label and image_name."""

    def __init__(self, files: ImageFiles, images: ImageList):
        self.files, self.images = files, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        pixels, error = self.files[index]
        if error:
            raise ImageError(error)
        label = np.int64(self.images.labels[index])
        return {"data": pixels, "label": label, "image_name": self.images.paths[index]}


def _loader(evaluation: Evaluation, images: ImageList, batch_size: int) -> DataLoader:
    preprocess = evaluation.encoder.preprocess
    paths = [images.file(i) for i in range(len(images))]
    files = ImageFiles(paths, preprocess.transform(), preprocess.size)
    workers = evaluation.encoder.workers
    return DataLoader(_OpenOODImages(files, images), batch_size, num_workers=workers)

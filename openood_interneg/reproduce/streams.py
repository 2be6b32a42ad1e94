"""How a cell of kind `streams` is run: a method on a stream, with a threshold as in use.

Half of the ID test images calibrate the threshold, the other half is the stream's; which, the
seed draws. Shots and proxies are training images and have no part in either. A shift changes the
stream's ID images alone: shots, calibration images and OOD stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.encode import Views
from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.evaluation.protocols import FeatureSet, columns, stream
from openood_interneg.evaluation.stream_metrics import TPR, Judged, set_figures
from openood_interneg.evaluation.streams import course, pools, split_half
from openood_interneg.reproduce.cell_run import CellRun, Figures
from openood_interneg.settings import SettingsError

VIEW_SIZE = 224  # pixels for which the constants of the corruptions are made


def run_streams(run: CellRun) -> Figures:
    """AUROC, both FPRs, and false alarms and OOD caught at the threshold, following and fixed.

    Raises:
        BenchmarkError: fewer than two ID test images.
        SettingsError: shifted images for a method that takes views or patches.
    """
    evaluation, point, seed = run.evaluation, run.cell.point, run.cell.seed
    id_set, ood_sets = evaluation.method_sets(run.method, run.settings)
    if len(id_set) < 2:
        raise BenchmarkError(
            f"'{id_set.name}' has {len(id_set)} image; a stream needs two at least, one of them to "
            "calibrate with"
        )
    calibrating, streaming = map(torch.from_numpy, split_half(len(id_set), seed))
    shown = _shifted(run, id_set)[..., streaming, :]
    features = torch.cat([shown, *(ood.features for ood in ood_sets)], dim=-2)
    ids = torch.cat([id_set.ids[streaming], *(ood.ids for ood in ood_sets)])
    labels = np.concatenate([id_set.labels[streaming.numpy()], *(o.labels for o in ood_sets)])
    sizes = [len(ood) for ood in ood_sets]
    owners = np.repeat(np.arange(1 + len(sizes)), [len(streaming), *sizes])
    detector = evaluation.detector(run.method, run.settings)
    found: dict[int, dict] = {}
    for pool, numbers in pools(
        point.stream, labels[: len(streaming)], sizes, point.counts or (1, 1)
    ):
        drawn = course(point.stream, pool, seed)
        detector.reset()
        detector.watch(id_set.features[..., calibrating, :], TPR)
        fixed, at = detector.threshold, torch.from_numpy(drawn.places)
        scores = stream(detector, features[..., at, :], ids[at], run.experiment.batch_size)
        pred, score, p = columns(scores)
        assert scores.gamma is not None  # images are watched
        judged = Judged(
            owners[drawn.places],
            drawn.parts,
            labels[drawn.places],
            pred,
            score,
            scores.gamma.cpu().numpy(),
            fixed,
            p,
        )
        for number in numbers:
            if number + 1 in judged.owners:  # too few ID images leave the last kinds out
                found[number] = set_figures(judged, number + 1)
    detector.watch(None)
    evaluation.inverters.flush()
    return {ood_sets[number].name: found[number] for number in sorted(found)}


def _shifted(run: CellRun, id_set: FeatureSet) -> Tensor:
    """Features of the ID test images as the stream shows them."""
    view = run.cell.point.shift
    if not view:
        return id_set.features
    if run.method.features_of(run.settings) != "image":
        raise SettingsError(
            f"'{run.cell.variant.label}' takes views or patches of an image; shifted streams are "
            "for methods that take the image alone"
        )
    images = run.evaluation.benchmark.test
    return run.evaluation.feature_set(images, Views((view,), size=VIEW_SIZE)).features[0]

"""What the cells of all experiments share: backbones, benchmarks, features, texts, inversions."""

from __future__ import annotations

import os

import torch

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.digests import digest
from openood_interneg.data.encode import Progress
from openood_interneg.data.image_lists import BenchmarkError, ImageList
from openood_interneg.data.store import Store
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.provenance import describe_benchmark
from openood_interneg.reproduce.experiment import Part
from openood_interneg.reproduce.options import Options
from openood_interneg.reproduce.parts import part_benchmark
from openood_interneg.settings import InternegError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import Preprocess


class Resources:
    """Loads each backbone, each benchmark and the features of both once.

    Args:
        options: the user's choices.
        store: features, texts and inversions.
        progress: told of images and texts encoded.
    """

    def __init__(self, options: Options, store: Store, progress: Progress | None = None):
        self.options, self.store, self.progress = options, store, progress
        self._backbones: dict[str, Backbone | InternegError] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._benchmarks: dict[str, tuple[Benchmark, Benchmark]] = {}

    def backbone(self, name: str) -> Backbone:
        """A backbone, loaded once.

        Raises:
            WeightsError: the weights are not on this machine and cannot be downloaded.
            CheckpointError: a file that holds no such model.
        """
        if name not in self._backbones:
            try:
                self._backbones[name] = load_backbone(
                    name,
                    pretrained=self.options.pretrained,
                    device=torch.device(self.options.device),
                    precision=self.options.precision,
                )
            except InternegError as error:
                self._backbones[name] = error
        found = self._backbones[name]
        if isinstance(found, InternegError):
            raise found
        return found

    def benchmarks(self, part: Part) -> tuple[Benchmark, Benchmark]:
        """A part's whole benchmark, and the one with the part's OOD sets; read once.

        Raises:
            BenchmarkError: the benchmark is not on this machine.
        """
        key = digest([part.benchmark, part.sets, part.proxies_from_test])
        if key not in self._benchmarks:
            self._benchmarks[key] = part_benchmark(
                part, self.options.substitute, self.options.data_root, self.options.limit
            )
        return self._benchmarks[key]

    def check_images(self, part: Part) -> None:
        """Looks for the test images of a part, so that no weights are loaded in vain.

        Raises:
            BenchmarkError: with the first missing file; a list of 50,000 is not printed.
        """
        _, benchmark = self.benchmarks(part)
        for images in (benchmark.test, *benchmark.ood):
            _check_present(images)

    def evaluation(self, part: Part, backbone: Backbone, preprocess: str) -> Evaluation:
        """The part's benchmark with this backbone; features and texts are shared by parts."""
        whole, chosen = self.benchmarks(part)
        shared = digest([describe_benchmark(whole), backbone.digest, preprocess])
        if shared not in self._evaluations:
            self._evaluations[shared] = Evaluation(
                whole,
                backbone,
                self.store,
                preprocess=self._preprocess(backbone, preprocess),
                encode_batch=self.options.encode_batch,
                workers=self.options.workers,
                progress=self.progress,
            )
        return self._evaluations[shared].restricted(chosen)

    def _preprocess(self, backbone: Backbone, name: str) -> Preprocess:
        # What the paper's scripts do to ImageNet is meant for backbones of 224 pixels.
        return backbone.preprocess.variant("clip" if self.options.substitute else name)


def _check_present(images: ImageList) -> None:
    try:
        _ = images.digest
    except OSError as error:
        raise BenchmarkError(
            f"an image of '{images.name}' is not there: {os.fspath(error.filename or '')}; point "
            "--data-root to the folder that holds OpenOOD's data"
        ) from error

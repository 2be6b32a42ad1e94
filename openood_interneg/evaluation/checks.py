"""What is checked before any work: that the images which methods will read are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.image_lists import BenchmarkError, shared_names
from openood_interneg.detectors.method import Method
from openood_interneg.negatives.proxies import sample_id_images
from openood_interneg.settings import IdImageSettings, MethodSettings, SettingsError


def check_plans(benchmark: Benchmark, plans: Sequence[tuple[Method, MethodSettings]]) -> None:
    """Looks for every image that the methods will read.

    Raises:
        BenchmarkError: missing images.
        ProxyError: a class without ID images.
        SettingsError: a method needs ID images, and the benchmark has none.
    """
    for method, _ in plans:
        check_image_names(benchmark, method)
    readers = [
        (method, own)
        for method, own in plans
        if isinstance(own, IdImageSettings) and own.reads_id_images
    ]
    train = benchmark.train
    for method, settings in readers:
        if train is None and getattr(settings, "negatives", "inter") == "inter":
            raise SettingsError(
                f"method '{method.name}' needs ID training images, and the benchmark "
                f"'{benchmark.name}' lists none; add a 'train' block to it, or --train FOLDER to "
                "folders of your own"
            )
    chosen = None
    if train is not None:
        indices = [
            sample_id_images(train.labels, benchmark.class_names, settings)
            for _, settings in readers
        ]
        chosen = train.subset(np.unique(np.concatenate(indices))) if indices else None
    benchmark.check(chosen)


def check_image_names(benchmark: Benchmark, method: Method) -> None:
    """A caption file knows an image by its name alone.

    Raises:
        BenchmarkError: the method reads captions, and two images share a name.
    """
    if "captions" not in method.needs:
        return
    for name, sets in shared_names([benchmark.test, *benchmark.ood]).items():
        raise BenchmarkError(
            f"'{name}' is an image of '{sets[0]}' and another one of '{sets[1]}': the captions "
            f"of method '{method.name}' could not be told apart. Write both lists with paths "
            "from one folder above, and the caption file likewise"
        )

"""What a result depends on: versions, device, weights, image lists, corpora, settings."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.digests import digest
from openood_interneg.data.image_lists import list_digest
from openood_interneg.detectors.method import Method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.negatives.corpus import Corpus, load_corpus
from openood_interneg.settings import MethodSettings, NegativeSettings, as_mapping
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import device_name
from openood_interneg.vlm.text_precision import text_precision

FPR = "FPR@95: OOD is positive (OpenOOD's); FPR@95(ID+): ID is positive"


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return dict(_installed())


@cache  # searching all of the path for nine packages takes ten milliseconds
def _installed() -> dict[str, str]:
    names = ("torch", "torchvision", "open_clip_torch", "numpy", "scikit-learn", "pillow", "nltk")
    out = {"python": platform.python_version()}
    for name in ("openood-interneg", *names):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


@cache
def git_commit() -> str | None:
    """Commit of the checkout that the package runs from, with `+changes`; None elsewhere."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if dirty else "")


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def _described(device: torch.device) -> str:
    """The device as figures should state it: on a CPU with the threads in use."""
    if device.type == "cuda":
        return device_name(device)
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{device.type} ({platform.machine()}, {threads})"


def describe_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    """Names, sizes and digests of the image lists."""
    sets = {"test": benchmark.test} | {images.name: images for images in benchmark.ood}
    if benchmark.train is not None:
        sets["train"] = benchmark.train
    return {
        "name": benchmark.name,
        "classes": len(benchmark.class_names),
        "class_names": digest(benchmark.class_names),
        "lists": {
            name: {"images": len(images), "digest": list_digest(images)}
            for name, images in sets.items()
        },
    }


def describe_backbone(evaluation: Evaluation) -> dict[str, Any]:
    """Weights, precision and preprocessing of an evaluation's backbone."""
    clip = evaluation.backbone
    return {
        "weights": clip.digest,
        "precision": clip.precision,
        "preprocess": evaluation.encoder.preprocess.key(),
    }


@cache
def corpus(source: str) -> Corpus:
    """A corpus, read once per process."""
    return load_corpus(source)


def describe_corpus(source: str) -> dict[str, Any]:
    """Name, size and digest of the words of a corpus."""
    words = corpus(source)
    return {"name": words.name, "words": len(words), "digest": words.digest}


def corpus_precision(backbone: Backbone, settings: MethodSettings) -> str | None:
    """The precision that a method's corpus is encoded in on this device; None without one."""
    if not isinstance(settings, NegativeSettings):
        return None
    return text_precision(backbone, settings.corpus_precision)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and device of this process."""
    return {"versions": versions(), "git_commit": git_commit(), "device": _described(device)}


def run_record(
    evaluation: Evaluation,
    plans: Sequence[tuple[Method, MethodSettings]],
    seeds: Sequence[int],
    protocol: str,
    batch_size: int,
    bench: str | Path,
    limit: int | None,
) -> dict[str, Any]:
    """What a run of `interneg eval` was, for run.json.

    Args:
        evaluation: after the run.
        plans: methods with their settings.
        seeds: of the run.
        protocol: of the run.
        batch_size: images per step.
        bench: as it was given.
        limit: largest number of images per set, or None.
    """
    clip, benchmark = evaluation.backbone, evaluation.benchmark
    return {
        "benchmark": {"source": str(bench), "limit": limit} | describe_benchmark(benchmark),
        "backbone": {"name": clip.name} | describe_backbone(evaluation),
        "protocol": protocol,
        "seeds": list(seeds),
        "batch_size": batch_size,
        "fpr": FPR,
        "settings": {method.name: as_mapping(chosen) for method, chosen in plans},
        "corpora": {
            method.name: describe_corpus(source)
            | {"precision": corpus_precision(clip, chosen) or clip.precision}
            for method, chosen in plans
            if (source := _corpus_of(method, chosen)) is not None
        },
        "images": {images.name: images.digest for images in (benchmark.test, *benchmark.ood)},
        "seconds": dict(evaluation.results.seconds),
    } | environment(clip.device)


def _corpus_of(method: Method, settings: MethodSettings) -> str | None:
    """Where a method's negative texts come from; None where it has none."""
    if "negatives" not in method.needs:
        return None
    if isinstance(settings, NegativeSettings) and settings.negatives == "none":
        return None
    return getattr(settings, "corpus", None)

"""What a result depends on, and what differs between two results."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openood_interneg.data.benchmark import Benchmark, ImageList
from openood_interneg.data.store import digest
from openood_interneg.evaluation.results import versions
from openood_interneg.negatives.corpus import Corpus, load_corpus
from openood_interneg.settings import SettingsError, TextSpaceSettings, as_mapping

if TYPE_CHECKING:
    from openood_interneg.detectors.method import Method
    from openood_interneg.evaluation.evaluate import Evaluation

FPR = "FPR@95: OOD is positive (OpenOOD's); FPR@95(ID+): ID is positive"


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


def device_name(device: torch.device) -> str:
    """Name of the device as figures should state it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{device.type} ({platform.machine()}, {threads})"


def list_digest(images: ImageList) -> str:
    """Hex digest of the names and labels of an image list; no file is looked at."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, label in zip(images.paths, images.labels.tolist(), strict=True):
        hasher.update(f"{name} {label}\n".encode())
    return hasher.hexdigest()


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


@cache
def corpus(source: str) -> Corpus:
    """A corpus, read once per process."""
    return load_corpus(source)


def describe_corpus(source: str) -> dict[str, Any]:
    """Name, size and digest of the words of a corpus."""
    words = corpus(source)
    return {"name": words.name, "words": len(words), "digest": words.digest}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and device of this process."""
    return {"versions": versions(), "git_commit": git_commit(), "device": device_name(device)}


def run_record(
    evaluation: Evaluation,
    plans: Sequence[tuple[Method, TextSpaceSettings]],
    seeds: Sequence[int],
    protocol: str,
    batch_size: int,
    bench: str | Path,
    limit: int | None,
) -> dict[str, Any]:
    """What a run of `interneg eval` was, for run.json.

    Args:
        plans: methods with their settings. bench: as it was given. limit: images per set, or None.
    """
    clip, benchmark = evaluation.backbone, evaluation.benchmark
    return {
        "benchmark": {"source": str(bench), "limit": limit} | describe_benchmark(benchmark),
        "backbone": {
            "name": clip.name,
            "weights": clip.digest,
            "precision": clip.precision,
            "preprocess": evaluation.encoder.preprocess.key(),
        },
        "protocol": protocol,
        "seeds": list(seeds),
        "batch_size": batch_size,
        "fpr": FPR,
        "settings": {method.name: as_mapping(chosen) for method, chosen in plans},
        "corpora": {
            method.name: describe_corpus(chosen.corpus)
            for method, chosen in plans
            if "negatives" in method.needs and chosen.negatives != "none"
        },
        "images": {images.name: images.digest for images in (benchmark.test, *benchmark.ood)},
        "seconds": dict(evaluation.results.seconds),
    } | environment(clip.device)


# ---- comparing -----------------------------------------------------------------------------


def read_result(path: Path) -> Any:
    """A JSON file.

    Raises:
        SettingsError: absent, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error


RUN, ROWS, REPORT = "run.json", "results.json", "report.json"


def read_run(path: Path) -> Any:
    """What there is to compare of a run: its figures, and what they depend on.

    Args:
        path: the folder that `eval` or `reproduce` wrote, or a JSON file of it; with `run.json` or
            `results.json` of an evaluation the other one is read, too.

    Raises:
        SettingsError: nothing to compare there, or a file that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name in (RUN, ROWS):
        names = [name for name in (RUN, ROWS) if (folder / name).is_file()]
        if names and (path.is_dir() or path.name in names):
            return {Path(name).stem: read_result(folder / name) for name in names}
    if path.is_dir():
        if (path / REPORT).is_file():
            return read_result(path / REPORT)
        raise SettingsError(
            f"there is no {ROWS}, {RUN} or {REPORT} in {path}; give the folder that eval or "
            "reproduce wrote (--out)"
        )
    return read_result(path)


def differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places at which two JSON values differ: (path, value in a, value in b).

    What only one of them has is given as None on the other side. Lists whose items have
    coordinates (rows of a table) are matched by those, not by position.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(a, list) and isinstance(b, list):
        left, right = _keyed(a), _keyed(b)
        for key in [*left, *(k for k in right if k not in left)]:
            yield from differences(left.get(key), right.get(key), f"{where}[{key}]")
    elif a != b:
        yield where, a, b


_NAMES = ("benchmark", "backbone", "part", "point", "method", "protocol", "seed", "dataset")


def _keyed(items: list[Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for i, item in enumerate(items):
        key: Any = i
        if isinstance(item, Mapping):
            if "row" in item and "column" in item:
                labels = [*item["row"], item["column"], item.get("metric", "")]
                key = " / ".join(str(label) for label in labels if label != "")
            else:
                labels = [str(item[name]) for name in _NAMES if item.get(name) not in (None, "")]
                key = " / ".join(labels) or i
        out[key if key not in out else f"{key} #{i}"] = item
    return out

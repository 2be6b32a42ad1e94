"""What a detector is on disk: a dataclass, packed into one file, unpacked and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openood_interneg.application.state import (
    StateError,
    read_state,
    refuse_differences,
    write_state,
)
from openood_interneg.application.stream import StreamRecord
from openood_interneg.data.digests import tensor_digest
from openood_interneg.detectors.registry import list_methods
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import shown

MEMORY, EXTRA = "memory.", "extra."  # begin the names of the entries of a method's memory and space
SPACE_OPTIONAL = ("proxies", "base", "image_base", "shots", "shot_labels")
FIT_DIGESTS = ("corpus", "id_images", "proxy_images")

Pairs = dict[str, tuple[Any, Any]]  # name -> (the state's, the present)


@dataclass(frozen=True)
class Setup:
    """What decides scores beside the text space; a stream goes on only where it is the same.

    Attributes:
        method: name of the method.
        settings: hyper-parameters.
        protections: limits of InterNeg's bank.
        limits: of images.
        batch_size: images that are encoded together.
        backbone: the model: name, digest of its weights, precision, origin.
        preprocess: what happens to an image before the model sees it.
    """

    method: str
    settings: dict[str, Any]
    protections: dict[str, Any]
    limits: dict[str, Any]
    batch_size: int
    backbone: dict[str, Any]
    preprocess: dict[str, Any]


@dataclass(frozen=True)
class SavedThreshold:
    """What tells unknown images.

    Attributes:
        mode: "follow" or "fixed".
        alpha: p-values up to it are unknown.
        tpr: share of ID images that calibration lets pass.
        given: gamma as set by hand, or None.
        fixed: gamma at the time of calibration, or None.
        features: of the calibration images, or None.
    """

    mode: str
    alpha: float
    tpr: float
    given: float | None
    fixed: float | None
    features: Tensor | None


@dataclass(frozen=True)
class SavedDetector:
    """A fitted detector.

    Attributes:
        setup: what it was made with.
        space: its labels, negative texts and what it knows of ID images.
        memory: what it learned from the stream.
        digests: of the corpus and of the ID images that it was fitted to.
        proxy_ids: ids of the images that the method was fitted to.
        threshold: what tells unknown images.
        record: where the stream stands.
    """

    setup: Setup
    space: TextSpace
    memory: dict[str, Tensor]
    digests: dict[str, str]
    proxy_ids: set[int]
    threshold: SavedThreshold
    record: StreamRecord


def write(saved: SavedDetector, path: str | Path) -> None:
    """Writes everything to one file, atomically.

    Raises:
        StateError: the file cannot be written.
    """
    space, setup, threshold = saved.space, saved.setup, saved.threshold
    tensors = {f"{MEMORY}{name}": tensor for name, tensor in saved.memory.items()}
    tensors |= {f"{EXTRA}{name}": tensor for name, tensor in space.extra.items()}
    optional = {name: getattr(space, name) for name in SPACE_OPTIONAL}
    optional["calibration"] = threshold.features
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    tensors |= {
        "labels": space.labels,
        "negatives": space.negatives,
        "proxy_keys": torch.tensor(sorted(saved.proxy_ids), dtype=torch.int64),
    }
    meta = {
        "method": setup.method,
        "settings": setup.settings,
        "protections": setup.protections,
        "class_names": list(space.class_names),
        "negative_words": list(space.negative_words),
        "backbone": setup.backbone,
        "preprocess": setup.preprocess,
        "reading": setup.limits,
        "digests": saved.digests | text_digests(space),
        "random": {"draws": "splitmix64", "seed": setup.settings.get("seed"), "key": "pixels"},
        "logit_scale": float(space.logit_scale),
        "batch_size": setup.batch_size,
        "threshold": {n: v for n, v in vars(threshold).items() if n != "features"},
        "stream": asdict(saved.record),
    }
    write_state(Path(path).expanduser(), tensors, meta)


def read(path: str | Path) -> SavedDetector:
    """Reads what `write` wrote; tensors are on the CPU.

    Raises:
        StateError: absent, damaged or foreign file.
    """
    tensors, meta = read_state(Path(path).expanduser())
    stream = meta["stream"]
    begun = stream.get("begun")
    if not isinstance(begun, int) or not 0 <= begun <= stream["position"]:
        raise StateError(f"{path} is damaged: the present input began at {begun!r}")
    if not isinstance(stream.get("note"), dict):
        raise StateError(f"{path} is damaged: the stream's note is no mapping")

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    return SavedDetector(
        setup=Setup(
            method=meta["method"],
            settings=_completed(meta["method"], meta["settings"]),
            protections=meta["protections"],
            limits=meta["reading"],
            batch_size=meta["batch_size"],
            backbone=meta["backbone"],
            preprocess=meta["preprocess"],
        ),
        space=TextSpace(
            labels=tensors["labels"],
            logit_scale=meta["logit_scale"],
            negatives=tensors["negatives"],
            **{name: tensors.get(name) for name in SPACE_OPTIONAL},
            negative_words=tuple(meta["negative_words"]),
            class_names=tuple(meta["class_names"]),
            extra=part(EXTRA),
        ),
        memory=part(MEMORY),
        digests={k: str(v) for k, v in meta["digests"].items()},
        proxy_ids=set(tensors["proxy_keys"].tolist()),
        threshold=SavedThreshold(**meta["threshold"], features=tensors.get("calibration")),
        record=StreamRecord(
            position=stream["position"],
            failed=stream["failed"],
            begun=begun,
            names=stream["names"],
            note=stream["note"],
        ),
    )


def _completed(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings; one that is younger than the state was at its default then."""
    known = [row for row in list_methods() if row.name == method]
    defaults = {n: getattr(row.settings, n) for row in known for n in row.setting_names}
    return defaults | dict(settings)


def text_digests(space: TextSpace) -> dict[str, str]:
    """Digests of the texts that decide scores."""
    return {name: tensor_digest(getattr(space, name)) for name in ("labels", "negatives")}


def setup_pairs(stored: Setup, present: Setup) -> Pairs:
    """All that a stream needs to go on with the same scores."""
    theirs, mine = _by_name(stored), _by_name(present)
    pairs = {n: (theirs.get(n), mine.get(n)) for n in dict.fromkeys([*mine, *theirs])}
    return pairs | model_pairs(stored, present)


def model_pairs(stored: Setup, present: Setup) -> Pairs:
    """What decides a feature beside the image."""
    there, here = stored.backbone, present.backbone
    pairs = {f"backbone {k}": (there.get(k), here[k]) for k in ("weights", "precision")}
    return pairs | {"preprocess": (stored.preprocess, present.preprocess)}


def _by_name(setup: Setup) -> dict[str, Any]:
    return {
        "method": setup.method,
        **setup.settings,
        **{f"protection {k}": v for k, v in setup.protections.items()},
        **{f"image reading {k}": v for k, v in setup.limits.items()},
        "batch_size": setup.batch_size,
    }


def refuse_other(path: str | Path, stored: Setup, pairs: Pairs) -> None:
    """Raises where a state does not belong to the present detector.

    Args:
        path: its file.
        stored: its setup.
        pairs: what must be equal.

    Raises:
        StateError: naming every difference.
    """
    refuse_differences(f"the state {path}, made with {described(stored.backbone)},", pairs)


def described(backbone: Mapping[str, Any]) -> str:
    """The stored model: its name, where it was loaded from, its digest."""
    loaded = [shown(backbone[k], 400) for k in ("source", "pretrained") if backbone.get(k)]
    origin = f"loaded from {' and '.join(loaded)}, " if loaded else ""
    weights, precision = str(backbone.get("weights"))[:12], str(backbone.get("precision"))[:20]
    return (
        f"the backbone {shown(backbone.get('name'))} ({origin}digest {weights}, "
        f"precision {precision})"
    )

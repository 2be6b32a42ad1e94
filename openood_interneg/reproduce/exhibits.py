"""What a page shows beside figures: examples, mined words, the bank and how it grew.

Everything comes out as plain values (thumbnails as base64 JPEG), made in one replay per OOD set.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.image_lists import ImageList, shared_names
from openood_interneg.data.images import read_rgb
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.detectors.method import Method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.protocols import Batch, FeatureSet, run_mixed
from openood_interneg.negatives.bank import NegativeBank
from openood_interneg.negatives.space_builder import TextSpaceBuilder, mines
from openood_interneg.reproduce.sealed import read_sealed
from openood_interneg.settings import MethodSettings, NegativeSettings

THUMBNAIL = 72
EXAMPLES = 3
TOP = 5
BANK = 8
WORDS = 12


def make_exhibit(
    evaluation: Evaluation,
    method: Method,
    detector: Detector,
    settings: MethodSettings,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Streams, examples and words of one method on one benchmark.

    Args:
        evaluation: of the benchmark.
        method: what is shown.
        detector: fitted, of the method.
        settings: of the detector.
        seed: of the order of the stream.
        batch_size: images per step.
    """
    id_list = evaluation.benchmark.test
    id_set, ood_sets = evaluation.method_sets(method, settings)
    sets = {}
    for images, ood in zip(evaluation.benchmark.ood, ood_sets, strict=True):
        stream = _Stream(detector, len(id_set))
        run = run_mixed(detector, id_set, ood, seed, batch_size, [stream])
        shown = Examples(evaluation, detector, (id_list, id_set), (images, ood))
        sets[images.name] = {
            "stream": stream.series,
            "threshold": _rounded(np.quantile(run.id_score, 0.05)),
            "groups": shown.groups(run.id_score, run.ood_score),
            "bank": _bank(evaluation, detector, settings, [id_list, images]),
        }
    return {"sets": sets, "mined": _mined(evaluation, detector, settings)}


def _bank_of(detector: Detector) -> NegativeBank | None:
    return detector.bank if isinstance(detector, InterNeg) else None


def load_exhibit(result: Mapping[str, Any], cells: Path) -> dict[str, Any] | None:
    """The exhibit's content, if the experiment has one."""
    if not result.get("exhibit"):
        return None
    path = cells / f"{result['exhibit']['cell']}.json"
    return read_sealed(path)


class _Stream:
    """An observer of a stream: images seen, size of the bank, mean scores of ID and OOD."""

    def __init__(self, detector: Detector, num_id: int):
        self.detector, self.num_id = detector, num_id
        self.series: dict[str, list[Any]] = {
            name: [] for name in ("seen", "bank", "inverted", "id", "ood")
        }

    def __call__(self, batch: Batch) -> None:
        score = batch.scores.score.cpu().numpy()
        is_id = (batch.places < self.num_id).numpy()
        bank, seen = _bank_of(self.detector), self.series["seen"]
        seen.append((seen[-1] if seen else 0) + len(score))
        self.series["bank"].append(0 if bank is None else len(bank))
        self.series["inverted"].append(getattr(self.detector, "inverted", 0))
        for name, mask in (("id", is_id), ("ood", ~is_id)):
            self.series[name].append(_rounded(score[mask].mean()) if mask.any() else None)


class Examples:
    """Examples of one OOD set with the labels and negatives that they are nearest to."""

    def __init__(
        self,
        evaluation: Evaluation,
        detector: Detector,
        id_side: tuple[ImageList, FeatureSet],
        ood_side: tuple[ImageList, FeatureSet],
    ):
        self.detector, self.names = detector, evaluation.benchmark.class_names
        self.sides = {"id": id_side, "ood": ood_side}
        words = list(detector.space.negative_words)
        words += [f"negative {i}" for i in range(len(words), len(detector.space.negatives))]
        self.negatives = words
        self.by_id = _by_id([id_side[0], ood_side[0]])

    def groups(self, id_score: np.ndarray, ood_score: np.ndarray) -> dict[str, list[dict]]:
        """OOD images found and missed, and ID images falsely accused."""
        return {
            "found": [self.example("ood", i, ood_score[i]) for i in _first(ood_score)],
            "missed": [self.example("ood", i, ood_score[i]) for i in _first(-ood_score)],
            "falsely accused": [self.example("id", i, id_score[i]) for i in _first(id_score)],
        }

    def example(
        self, side: str, index: int, score: float, remembered: int | None = None
    ) -> dict[str, Any]:
        """One image: thumbnail, score, and its five best labels and negatives by softmax.

        Args:
            side: "id" or "ood".
            index: in its list.
            score: that it got.
            remembered: how many of the five negatives are remembered images, at most, and the
                others texts; by default the best of both are taken, whatever they are.
        """
        images, features = self.sides[side]
        id_logits, negative_logits = self.detector.text_logits(
            features.features[..., index : index + 1, :]
        )
        every = torch.cat([id_logits, negative_logits], dim=1)[0].softmax(dim=0)
        classes = id_logits.shape[1]
        label = int(images.labels[index])
        negatives = every[classes:]
        if remembered is None:
            best = _best(negatives, self.negative)
        else:
            learned = negatives[len(self.negatives) :]
            kept = _best(learned, lambda i: self.negative(i + len(self.negatives)))[:remembered]
            texts = _best(negatives[: len(self.negatives)], self.negative)
            best = texts[: TOP - len(kept)] + kept
        return {
            "image": thumbnail(images, index),
            "name": images.paths[index],
            "label": self.names[label] if label >= 0 else "",
            "score": _rounded(score),
            "labels": _best(every[:classes], self.names.__getitem__),
            "negatives": best,
        }

    def negative(self, index: int) -> str:
        """Name of a negative: a mined word, or the image that a bank entry came from."""
        if index < len(self.negatives):
            return self.negatives[index]
        bank, name = _bank_of(self.detector), "an image"
        if bank is not None:
            own_id = int(bank.ids[index - len(self.negatives)])
            name = self.by_id.get(own_id, (None, 0, name))[2]
        return f"inverted {'/'.join(name.split('/')[-2:])}"


def _best(probability: Tensor, name: Callable[[int], str]) -> list[list[Any]]:
    top = probability.topk(min(TOP, len(probability)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [[name(i), _rounded(value)] for i, value in pairs]


def _first(score: np.ndarray) -> list[int]:
    return np.argsort(score, kind="stable")[:EXAMPLES].tolist()


def _by_id(lists: Sequence[ImageList]) -> dict[int, tuple[ImageList | None, int, str]]:
    """Image of an id; none where two different images of the stream have one name."""
    out: dict[int, tuple[ImageList | None, int, str]] = {}
    doubtful = shared_names(lists)
    for images in lists:
        for i, own_id in enumerate(image_ids(images.paths).tolist()):
            name = images.paths[i]
            out[own_id] = (None if name in doubtful else images, i, name)
    return out


def thumbnail(images: ImageList, index: int) -> str:
    """A small JPEG as base64."""
    small = read_rgb(images.file(index))
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=82)
    return base64.b64encode(data.getvalue()).decode()


def _bank(
    evaluation: Evaluation,
    detector: Detector,
    settings: MethodSettings,
    lists: Sequence[ImageList],
) -> list[dict[str, Any]]:
    """The bank's best entries: the image each came from, and the corpus words nearest to it."""
    bank = _bank_of(detector)
    if bank is None or len(bank) == 0 or not isinstance(settings, NegativeSettings):
        return []
    by_id = _by_id(lists)
    features = bank.features[:BANK]
    words = nearest_words(evaluation.source, settings, features)
    classes = len(detector.space.labels)
    out = []
    for i in range(len(features)):
        images, index, name = by_id.get(int(bank.ids[i]), (None, 0, ""))
        out.append(
            {
                "image": thumbnail(images, index) if images is not None else "",
                "name": name,
                "side": _side(images, index),
                "deviation": _rounded(bank.deviation[i] / classes),
                "words": words[i],
            }
        )
    return out


def _side(images: ImageList | None, index: int) -> str:
    if images is None:
        return "ID or OOD (two images have this name)"
    return "OOD" if images.labels[index] < 0 else "ID"


def nearest_words(
    source: TextSpaceBuilder, settings: NegativeSettings, features: Tensor, count: int = TOP
) -> list[list[list[Any]]]:
    """For each row the corpus words whose text features are nearest: [word, cosine] pairs."""
    corpus = source.corpus(settings)
    best = torch.full((len(features), 0), -1.0, device=features.device)
    names: list[list[str]] = [[] for _ in features]
    for words, prompt, what in (
        (corpus.nouns, settings.noun_prompt, "nouns"),
        (corpus.adjectives, settings.adjective_prompt, "adjectives"),
    ):
        start = 0
        for chunk in source.texts(words, prompt, what) if words else ():
            top = (features @ chunk.t()).topk(min(count, len(chunk)), dim=1)
            every = torch.cat([best, top.values], dim=1)
            kept = every.topk(min(count, every.shape[1]), dim=1)
            for row, columns in enumerate(kept.indices.tolist()):
                pool = names[row] + [words[start + j] for j in top.indices[row].tolist()]
                names[row] = [pool[c] for c in columns]
            best, start = kept.values, start + len(chunk)
    return [
        [[word, _rounded(value)] for word, value in zip(row, values, strict=True)]
        for row, values in zip(names, best.tolist(), strict=True)
    ]


def _mined(evaluation: Evaluation, detector: Detector, settings: MethodSettings) -> dict[str, Any]:
    """The mined texts with the largest and the smallest deviation, per class on average."""
    if not mines(settings):
        return {}
    mined = evaluation.source.mined(settings)
    per_class = (mined.deviation / len(detector.space.labels)).tolist()
    order = np.argsort([-value for value in per_class], kind="stable").tolist()

    def rows(indices: Sequence[int]) -> list[list[Any]]:
        return [[mined.words[i], mined.parts_of_speech[i], _rounded(per_class[i])] for i in indices]

    return {
        "kept": len(mined.words),
        "passing": mined.passing,
        "farthest": rows(order[:WORDS]),
        "nearest": rows(order[::-1][:WORDS]),
    }


def _rounded(value: Any) -> float:
    return float(f"{float(value):.5g}")

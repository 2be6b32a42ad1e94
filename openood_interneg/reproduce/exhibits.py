"""What a page shows beside figures: examples, mined words, the bank and how it grew.

Everything comes out as plain values (thumbnails as base64 JPEG), made in one replay per OOD set.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openood_interneg.data.benchmark import ImageList
from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.image_lists import shared_names
from openood_interneg.data.images import read_rgb
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.method import Method
from openood_interneg.evaluation.protocols import mixed_order
from openood_interneg.negatives.space_builder import mines
from openood_interneg.reproduce.error_types import text_logits

THUMBNAIL = 72
EXAMPLES = 3
TOP = 5
BANK = 8
WORDS = 12


def make_exhibit(
    evaluation, method: Method, detector: Detector, settings, seed: int, batch_size: int
) -> dict:
    """Streams, examples and words of one method on one benchmark.

    Args:
        evaluation: an `Evaluation`. detector: fitted, of the method. settings: of the detector.
    """
    id_list = evaluation.benchmark.test
    id_set, ood_sets = evaluation.method_sets(method, settings)
    sets = {}
    for images, ood in zip(evaluation.benchmark.ood, ood_sets, strict=True):
        order = mixed_order(len(id_set), len(ood), seed)
        at = torch.from_numpy(order)
        features = torch.cat([id_set.features, ood.features], dim=-2)[..., at, :]
        keys = torch.cat([id_set.keys, ood.keys])[at]
        stream, score = _stream(detector, features, keys, order < len(id_set), batch_size)
        score = score[np.argsort(order)]
        scores = (score[: len(id_set)], score[len(id_set) :])
        shown = _Shown(evaluation, detector, id_list, images, id_set.features, ood.features)
        sets[images.name] = {
            "stream": stream,
            "threshold": _rounded(np.quantile(scores[0], 0.05)),
            "groups": shown.groups(*scores),
            "bank": _bank(evaluation, detector, settings, [id_list, images]),
        }
    return {"sets": sets, "mined": _mined(evaluation, detector, settings)}


def _stream(detector: Detector, features: Tensor, keys: Tensor, is_id: np.ndarray, size: int):
    """Replays; after each batch: images seen, size of the bank, mean scores of ID and OOD."""
    detector.reset()
    stream: dict[str, list] = {"seen": [], "bank": [], "inverted": [], "id": [], "ood": []}
    scores = []
    for begin in range(0, len(keys), size):
        rows = slice(begin, begin + size)
        score = detector.step(features[..., rows, :], keys[rows]).score.cpu().numpy()
        own = is_id[rows]
        stream["seen"].append(min(begin + size, len(keys)))
        stream["bank"].append(len(getattr(detector, "bank", ())))
        stream["inverted"].append(int(getattr(detector, "inverted", 0)))
        for name, mask in (("id", own), ("ood", ~own)):
            stream[name].append(_rounded(score[mask].mean()) if mask.any() else None)
        scores.append(score)
    return stream, np.concatenate(scores)


class _Shown:
    """Examples of one OOD set with the labels and negatives that they are nearest to."""

    def __init__(self, evaluation, detector, id_list, ood_list, id_features, ood_features):
        self.detector, self.names = detector, evaluation.benchmark.class_names
        self.lists = {"id": id_list, "ood": ood_list}
        self.features = {"id": id_features, "ood": ood_features}
        words = list(detector.space.negative_words)
        words += [f"negative {i}" for i in range(len(words), len(detector.space.negatives))]
        self.negatives = words
        self.by_key = _by_key([id_list, ood_list])

    def groups(self, id_score: np.ndarray, ood_score: np.ndarray) -> dict[str, list[dict]]:
        """OOD images found and missed, and ID images falsely accused."""
        return {
            "found": [self.example("ood", i, ood_score) for i in _first(ood_score)],
            "missed": [self.example("ood", i, ood_score) for i in _first(-ood_score)],
            "falsely accused": [self.example("id", i, id_score) for i in _first(id_score)],
        }

    def example(self, side: str, index: int, score: np.ndarray) -> dict[str, Any]:
        """One image: thumbnail, score, and its five best labels and negatives by softmax."""
        images = self.lists[side]
        id_logits, negative_logits = text_logits(
            self.detector, self.features[side][..., index : index + 1, :]
        )
        every = torch.cat([id_logits, negative_logits], dim=1)[0].softmax(dim=0)
        classes = id_logits.shape[1]
        label = int(images.labels[index])
        return {
            "image": thumbnail(images, index),
            "name": images.paths[index],
            "label": self.names[label] if label >= 0 else "",
            "score": _rounded(score[index]),
            "labels": _best(every[:classes], self.names),
            "negatives": _best(every[classes:], _Named(self)),
        }

    def negative(self, index: int) -> str:
        """Name of a negative: a mined word, or the image that a bank entry came from."""
        if index < len(self.negatives):
            return self.negatives[index]
        key = int(self.detector.bank.keys[index - len(self.negatives)])
        name = self.by_key.get(key, (None, 0, "an image"))[2]
        return f"inverted {'/'.join(name.split('/')[-2:])}"


class _Named:
    def __init__(self, shown: _Shown):
        self.shown = shown

    def __getitem__(self, index: int) -> str:
        return self.shown.negative(index)


def _best(probability: Tensor, names) -> list[list[Any]]:
    top = probability.topk(min(TOP, len(probability)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [[names[i], _rounded(value)] for i, value in pairs]


def _first(score: np.ndarray) -> list[int]:
    return np.argsort(score, kind="stable")[:EXAMPLES].tolist()


def _by_key(lists: Sequence[ImageList]) -> dict[int, tuple[ImageList | None, int, str]]:
    """Image of a key; none where two different images of the stream have one name."""
    out = {}
    doubtful = shared_names(lists)
    for images in lists:
        for i, key in enumerate(image_ids(images.paths).tolist()):
            name = images.paths[i]
            out[key] = (None if name in doubtful else images, i, name)
    return out


def thumbnail(images: ImageList, index: int) -> str:
    """A small JPEG as base64."""
    small = read_rgb(images.file(index))
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=82)
    return base64.b64encode(data.getvalue()).decode()


def _bank(evaluation, detector: Detector, settings, lists: Sequence[ImageList]) -> list[dict]:
    """The bank's best entries: the image each came from, and the corpus words nearest to it."""
    bank = getattr(detector, "bank", None)
    if bank is None or len(bank) == 0:
        return []
    by_key = _by_key(lists)
    features = bank.features[:BANK]
    words = nearest_words(evaluation.source, settings, features)
    classes = len(detector.space.labels)
    out = []
    for i in range(len(features)):
        images, index, name = by_key.get(int(bank.keys[i]), (None, 0, ""))
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


def nearest_words(source, settings, features: Tensor, count: int = TOP) -> list[list[list]]:
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


def _mined(evaluation, detector: Detector, settings) -> dict[str, Any]:
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

"""Drawn images of the miniature and the hostile streams that are made of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.image_ids import content_id
from openood_interneg.data.store import Store
from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.detectors.rationeg import RatioNegSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import Inversion
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.vlm.backbones import Backbone

LENGTH = 1200  # images of a hostile part
WATCHED = PROBES = 2000  # ID images that are calibrated with, and that false alarms are counted of
MISSING, KEPT = "3 of 10 classes unknown", 7  # the detector knows 7, the stream brings all 10


# Method, settings, protections of each variant. InterNeg and RatioNeg are causal here, as in the
# detector for applications.
VARIANTS: dict[str, tuple[str, dict, dict]] = {
    "InterNeg": ("interneg", {"update": "sample"}, {}),
    "TINS": ("tins", {}, {}),
    "AdaNeg": ("adaneg", {"negatives": "inter", "groups": 1}, {}),
    "RatioNeg": ("rationeg", {"update": "sample"}, {}),
    "RatioNeg, p <= 0.05": ("rationeg", {"update": "sample"}, {}),
    "no bank": ("interneg", {"bank": "none"}, {}),
    "InterNeg, fixed": ("interneg", {"update": "sample"}, {}),
    "admissions 5 per 100, fixed": ("interneg", {"update": "sample"}, {"admissions": 5}),
    "diversity 0.9, fixed": ("interneg", {"update": "sample"}, {"diversity": 0.9}),
    "max_age 500, fixed": ("interneg", {"update": "sample"}, {"max_age": 500}),
    "id_guard 0.10, fixed": ("interneg", {"update": "sample"}, {"id_guard": 0.10}),
}


@dataclass
class Pool:
    """Drawn images.

    Attributes:
        features: (n, D) unit rows.
        ids: (n,) int64.
        classes: (n,) int64, -1 for OOD.
    """

    features: Tensor
    ids: Tensor
    classes: Tensor

    def take(self, rng: np.random.Generator, count: int) -> Pool:
        """`count` of them by chance, with replacement where there are too few."""
        at = torch.from_numpy(rng.choice(len(self.ids), count, replace=count > len(self.ids)))
        return self.at(at)

    def of(self, classes: int) -> Pool:
        """The ID images of the first so many classes."""
        return self.at(((self.classes >= 0) & (self.classes < classes)).nonzero()[:, 0])

    def at(self, index: Tensor) -> Pool:
        """Those at an index."""
        return Pool(self.features[index], self.ids[index], self.classes[index])


def drawn(clip: Backbone, kinds, stream: str, count: int, first: int = 0) -> Pool:
    """Draws and encodes `count` images, the kinds in turn."""
    transform, rows, ids = clip.preprocess.transform(), [], []
    known = {kind: i for i, kind in enumerate(ID_KINDS)}
    for begin in range(first, first + count, 64):
        pixels = []
        for i in range(begin, min(begin + 64, first + count)):
            image = draw(kinds[i % len(kinds)], image_rng(0, stream, i))
            pixels.append(transform(image))
            ids.append(content_id(image))
        rows.append(clip.encode_image(torch.stack(pixels)))
    classes = [known.get(kinds[i % len(kinds)], -1) for i in range(first, first + count)]
    return Pool(torch.cat(rows), torch.tensor(ids), torch.tensor(classes))


class TrainImages:
    """ID images of all classes for the proxies."""

    def __init__(self, clip: Backbone, classes: tuple[str, ...], per_class: int):
        self.pool = drawn(clip, classes, "train", per_class * len(classes))
        self.labels = np.arange(per_class * len(classes)) % len(classes)

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) unit image features."""
        return self.pool.features[torch.as_tensor(indices)]


def cat(*parts: Pool) -> Pool:
    """Pools one after the other."""
    columns = ("features", "ids", "classes")
    return Pool(*(torch.cat([getattr(part, column) for part in parts]) for column in columns))


def shuffled(pool: Pool, rng: np.random.Generator) -> Pool:
    """In random order."""
    return pool.at(torch.from_numpy(rng.permutation(len(pool.ids))))


class Bench:
    """The data of all streams, and inversions that are kept."""

    def __init__(self, clip: Backbone, words: int):
        self.clip = clip
        self.inverted: dict[tuple[str, int], dict[int, Tensor]] = {}
        folder = Path(tempfile.mkdtemp())
        nouns = load_corpus("wordnet").nouns
        corpus = folder / "words.txt"
        corpus.write_text("\n".join(nouns[:: max(len(nouns) // words, 1)]), encoding="utf-8")
        # Every method gets this space: negatives and proxies are InterNeg's.
        self.space_settings = RatioNegSettings(num_negatives=1000, corpus=str(corpus))
        self.spaces: dict[int, tuple[TextSpaceBuilder, TextSpace]] = {}
        self.id_test = drawn(clip, ID_KINDS, "test", 1500)
        # Images that come twice meet their own embedding in the bank: the end has its own ones.
        self.id_after = drawn(clip, ID_KINDS, "test", 500, first=100_000)
        self.id_watched = drawn(clip, ID_KINDS, "probe", WATCHED)
        self.id_probe = drawn(clip, ID_KINDS, "probe", PROBES, first=100_000)
        self.near = drawn(clip, NEAR_KINDS, "othershapes", 700)
        self.far = {name: drawn(clip, kinds, name, 400) for name, kinds in FAR_KINDS.items()}

    def space(self, classes: int = len(ID_KINDS)) -> tuple[TextSpaceBuilder, TextSpace]:
        """Source and text space of the first so many classes."""
        if classes not in self.spaces:
            names = ID_KINDS[:classes]
            images = TrainImages(self.clip, names, 16)
            source = TextSpaceBuilder(self.clip, names, images, Store(None))
            self.spaces[classes] = source, source.build(self.space_settings)
        return self.spaces[classes]

    def detector(self, name: str, classes: int = len(ID_KINDS)) -> Detector:
        """A fitted detector of one of the variants."""
        source, space = self.space(classes)
        key, values, limits = VARIANTS[name]
        method = get_method(key)
        settings = method.make_settings(values)
        inversion = method.inversion_of(source, settings, space)
        inverter = None if inversion is None else self.kept(key, classes, inversion)
        if limits:
            return ProtectedInterNeg(settings, inverter, ProtectionSettings(**limits)).fit(space)
        return method.make(settings, inverter).fit(space)

    def kept(self, method: str, classes: int, inversion: Inversion) -> Inverter:
        """Inversions are a function of image and space: variants and streams share them."""
        known = self.inverted.setdefault((method, classes), {})
        made: list[Inverter] = []

        def invert(features: Tensor, ids: Tensor) -> Tensor:
            missing = [i for i, own_id in enumerate(ids.tolist()) if own_id not in known]
            if missing:
                made.extend([] if made else [inversion.make()])
                rows = made[0](features[missing], ids[missing])
                known.update(zip(ids[missing].tolist(), rows, strict=True))
            return torch.stack([known[own_id] for own_id in ids.tolist()])

        return invert


def streams(bench: Bench) -> dict[str, Callable[[np.random.Generator], Pool]]:
    """Name -> maker of the hostile part, LENGTH images."""
    far = cat(*bench.far.values())
    reference = bench.detector("no bank")

    def static(pool: Pool) -> Tensor:
        return reference.step(pool.features, pool.ids).score

    def mixture(rng):
        return ordinary(bench, bench.id_test, rng, LENGTH)

    def id_only(rng):
        return bench.id_test.take(rng, LENGTH)

    def imbalance(rng):  # 1000 : 1
        return shuffled(cat(bench.id_test.take(rng, LENGTH - 1), far.take(rng, 1)), rng)

    def repeated(rng):
        one = bench.near.at(static(bench.near).argsort()[len(bench.near.ids) // 20][None])
        return shuffled(cat(bench.id_test.take(rng, LENGTH // 2), one.take(rng, LENGTH // 2)), rng)

    def at_the_gate(rng):  # near OOD whose score is just under beta
        score = static(bench.near)
        below = (score < 0.35).nonzero()[:, 0]
        close = below[score[below].argsort(descending=True)[:60]]
        return shuffled(
            cat(bench.id_test.take(rng, LENGTH // 2), bench.near.at(close).take(rng, LENGTH // 2)),
            rng,
        )

    def by_score(rng):
        pool = ordinary(bench, bench.id_test, rng, LENGTH)
        return pool.at(static(pool).argsort())

    def change(rng):  # textures, then letters, then noise
        third = LENGTH // 6
        parts = [
            shuffled(cat(bench.id_test.take(rng, third), bench.far[name].take(rng, third)), rng)
            for name in bench.far
        ]
        return cat(*parts)

    def hard_id(rng):  # the ID images that score lowest, again and again
        low = static(bench.id_test).argsort()[:100]
        return bench.id_test.at(low).take(rng, LENGTH)

    return {
        "ordinary mixture": mixture,
        "ID only": id_only,
        "1000 ID to 1 OOD": imbalance,
        "one OOD image repeated": repeated,
        "near OOD at the gate": at_the_gate,
        "sorted by score": by_score,
        "sudden change of OOD": change,
        "low-scoring ID only": hard_id,
        MISSING: id_only,
    }


def ordinary(bench: Bench, known: Pool, rng: np.random.Generator, count: int) -> Pool:
    """Half ID images out of `known`, a quarter near and a quarter far OOD, shuffled."""
    far = cat(*bench.far.values())
    quarter = count // 4
    parts = (
        known.take(rng, count - 2 * quarter),
        bench.near.take(rng, quarter),
        far.take(rng, quarter),
    )
    return shuffled(cat(*parts), rng)

"""From class names and ID images to a fitted detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openood_interneg.application.id_images import LabelledImages, contents_digest, images_digest
from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.inputs import checked_names, labelled_images
from openood_interneg.application.saving import Pairs, SavedDetector, text_digests
from openood_interneg.application.state import differing_names
from openood_interneg.data.encode import Progress
from openood_interneg.data.store import Store
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.proxies import sample_id_images
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import live_inverter
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError
from openood_interneg.vlm.backbones import Backbone


@dataclass(frozen=True)
class Fit:
    """What class names and ID images came to.

    Attributes:
        space: labels, negative texts and proxies.
        digests: of the corpus, the ID images by name, and the proxies' images by content.
        proxy_ids: ids of the images that made the proxies.
    """

    space: TextSpace
    digests: dict[str, str]
    proxy_ids: set[int]


def fit_space(
    encoder: ImageEncoder,
    settings: InterNegSettings,
    store: Store,
    names: Sequence[str],
    sources: list[Any],
    labels: np.ndarray,
    log: Progress,
) -> Fit:
    """Mines the negative texts and makes the proxies.

    Args:
        encoder: of the images; its model is loaded.
        settings: hyper-parameters.
        store: where text features are kept.
        names: of the classes.
        sources: ID images.
        labels: (n,) their classes.
        log: told of the model, images and texts.
    """
    log("model", 0, 1)
    backbone = encoder.backbone
    log("model", 1, 1)
    images = LabelledImages(
        lambda part: encoder.encode(part, lambda count: log("ID images", count, len(part))),
        sources,
        labels,
    )
    space = TextSpaceBuilder(backbone, names, images, store, log).build(settings)
    digests = {
        "corpus": corpus_digest(settings),
        "id_images": images_digest(images.sources, images.labels),
        "proxy_images": contents_digest(images.used),
    }
    return Fit(space, digests, images.ids)


def make_detector(
    backbone: Backbone,
    settings: InterNegSettings,
    protections: ProtectionSettings,
    space: TextSpace,
) -> ProtectedInterNeg:
    """A detector that is fitted to a text space.

    Raises:
        SettingsError: more groups than negative texts.
    """
    if 0 < len(space.negatives) < settings.groups:
        raise SettingsError(
            f"groups is {settings.groups}, but there are only {len(space.negatives)} "
            "negative texts: no group would have any. Use fewer groups or another corpus"
        )
    if len(space.negatives) == 0:
        warnings.warn(
            "there are no negative texts, so every image scores 1 and none is unknown; "
            "raise num_negatives, or use another corpus",
            stacklevel=3,
        )
    inverter: Inverter | None = live_inverter(backbone, settings) if settings.inverts else None
    detector = ProtectedInterNeg(settings, inverter, protections)
    detector.fit(space)
    return detector


def corpus_digest(settings: InterNegSettings) -> str:
    """Digest of the words that negative texts are mined from; empty where none are."""
    if settings.negatives == "none" or settings.num_negatives == 0:
        return ""
    return load_corpus(settings.corpus).digest


def fit_pairs(
    saved: SavedDetector,
    fitted: TextSpace | None,
    class_names: Sequence[str] | str | Path | None,
    id_images: Any,
    settings: InterNegSettings,
) -> Pairs:
    """What a state was fitted to, and what is here.

    Args:
        saved: the state.
        fitted: the text space of the detector that is to go on with it, or None.
        class_names: as for `fit`, or None.
        id_images: as for `fit`, or None.
        settings: of the detector.
    """
    pairs: Pairs = {}
    stored, stored_names = saved.digests, saved.space.class_names
    names = None
    if fitted is not None:
        names = fitted.class_names
        for name, here in text_digests(fitted).items():
            pairs[f"{name} digest"] = (stored.get(name), here)
    if class_names is not None:
        names = checked_names(class_names)
        pairs["corpus digest"] = (stored.get("corpus"), corpus_digest(settings))
    if names is None:
        return pairs
    if names != stored_names:
        return pairs | {"class names": differing_names(stored_names, names)}
    if id_images is None:
        return pairs
    sources, labels = labelled_images(id_images, names)
    digest = images_digest(sources, labels)
    pairs["ID images digest"] = (stored.get("id_images"), digest)
    if digest == stored.get("id_images"):
        used = contents_digest([sources[i] for i in _proxy_images(labels, names, settings)])
        pairs["content of the ID images"] = (stored.get("proxy_images"), used)
    return pairs


def _proxy_images(
    labels: np.ndarray, names: Sequence[str], settings: InterNegSettings
) -> list[int]:
    """Which ID images `fit` would read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `fit` has said which classes have few
        return sample_id_images(labels, names, settings).tolist()


def warn_of_equal_texts(space: TextSpace) -> None:
    """Long names are cut by CLIP's tokenizer, and then two may be one text."""
    cosine = space.labels @ space.labels.t()
    same = (cosine.triu(diagonal=1) > 1 - 1e-6).nonzero()
    if len(same):
        a, b = (space.class_names[i][:60] for i in same[0].tolist())
        warnings.warn(
            f"CLIP sees no difference between {a!r} and {b!r} ({len(same)} such pairs); shorten "
            "or rename them",
            stacklevel=3,
        )

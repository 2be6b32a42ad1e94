"""From class names and ID images to a fitted detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openood_interneg.application.id_images import (
    LabelledFeatures,
    LabelledImages,
    contents_digest,
    images_digest,
)
from openood_interneg.application.inputs import checked_names, labelled_images
from openood_interneg.application.saving import Pairs, SavedDetector, text_digests
from openood_interneg.application.state import differing_names
from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.interneg import METHOD as INTERNEG
from openood_interneg.detectors.method import Method, live
from openood_interneg.detectors.protections import ProtectedInterNeg, ProtectionSettings
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.proxies import sample_id_images
from openood_interneg.negatives.space_builder import TextSpaceBuilder, mines
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import (
    IdImageSettings,
    MethodSettings,
    NegativeSettings,
    SettingsError,
)


@dataclass(frozen=True)
class Fit:
    """What class names and ID images came to.

    Attributes:
        space: labels, negative texts and what the method makes of ID images.
        digests: of the corpus and of the ID images.
        proxy_ids: ids of the images that the method was fitted to.
        rest: places of the ID images that it was not fitted to.
    """

    space: TextSpace
    digests: dict[str, str]
    proxy_ids: set[int]
    rest: list[int]


def fit_space(
    source: TextSpaceBuilder,
    method: Method,
    settings: MethodSettings,
    images: LabelledImages | LabelledFeatures | None,
) -> Fit:
    """Makes the text space of a method.

    Args:
        source: of texts and ID images.
        method: whose space it is.
        settings: of the method.
        images: the ID images of the source, or None.
    """
    space = source.space_for(method, settings)
    space = replace(space, class_names=source.class_names)
    digests = {"corpus": corpus_digest(settings)}
    if images is None:
        return Fit(space, digests, set(), [])
    read = set(images.read)
    rest = [place for place in range(len(images.labels)) if place not in read]
    return Fit(space, digests | images.digests(), images.ids, rest)


def make_detector(
    method: Method,
    settings: MethodSettings,
    protections: ProtectionSettings,
    source: TextSource,
    space: TextSpace,
) -> Detector[Any]:
    """A detector that is fitted to a text space.

    Args:
        method: of the detector.
        settings: of the method.
        protections: of InterNeg's bank.
        source: of texts that inversion needs.
        space: on the model's device.

    Raises:
        SettingsError: more groups than negative texts.
    """
    groups = getattr(settings, "groups", 1)
    if 0 < len(space.negatives) < groups:
        raise SettingsError(
            f"groups is {groups}, but there are only {len(space.negatives)} "
            "negative texts: no group would have any. Use fewer groups or another corpus"
        )
    if "negatives" in method.needs and len(space.negatives) == 0:
        warnings.warn(
            "there are no negative texts, so every image scores 1 and none is unknown; "
            "raise num_negatives, or use another corpus",
            stacklevel=3,
        )
    if method is INTERNEG:
        protected: Any = partial(ProtectedInterNeg, protections=protections)
        method = replace(method, detector=protected)
    return method.fitted(settings, source, live, space)


def corpus_digest(settings: MethodSettings) -> str:
    """Digest of the words that negative texts are mined from; empty where none are."""
    if not mines(settings):
        return ""
    assert isinstance(settings, NegativeSettings)
    return load_corpus(settings.corpus).digest


def fit_pairs(
    saved: SavedDetector,
    fitted: TextSpace | None,
    class_names: Sequence[str] | str | Path | None,
    id_images: Any,
    settings: MethodSettings,
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
    if digest == stored.get("id_images") and isinstance(settings, IdImageSettings):
        used = contents_digest([sources[i] for i in _proxy_images(labels, names, settings)])
        pairs["content of the ID images"] = (stored.get("proxy_images"), used)
    return pairs


def _proxy_images(labels: np.ndarray, names: Sequence[str], settings: IdImageSettings) -> list[int]:
    """Which ID images `fit` would read."""
    if not settings.reads_id_images:
        return []
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

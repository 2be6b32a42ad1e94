"""From a backbone, class names and ID images to the text space that a method asks for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.classnames import check_tokens
from openood_interneg.data.digests import digest, tensors_digest
from openood_interneg.data.encode import Progress, backbone_key
from openood_interneg.data.store import Store
from openood_interneg.negatives.corpus import (
    Corpus,
    CorpusSettings,
    deduplicate,
    load_corpus,
    source_digest,
)
from openood_interneg.negatives.mining import (
    Criterion,
    NegativeTexts,
    inter_modal,
    intra_modal,
    mine,
)
from openood_interneg.negatives.proxies import base_cosine, image_proxies, sample_id_images
from openood_interneg.negatives.stored_mining import mined_layout, pack, unpack
from openood_interneg.negatives.stored_texts import StoredTexts
from openood_interneg.negatives.text_space import (
    Average,
    IdImages,
    SpaceRecipe,
    TextSpace,
    TextSpaceError,
    space_key,
)
from openood_interneg.settings import (
    IdImageSettings,
    LabelSettings,
    MethodSettings,
    NegativeSettings,
    SettingsError,
    as_mapping,
)
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.text_precision import TextPrecision, text_backbone


class TextSpaceBuilder:
    """Makes text spaces for one backbone and one set of classes; what they share is kept.

    This is the `TextSource` that recipes get.

    Args:
        backbone: the frozen model.
        class_names: C names, in label order.
        id_images: ID training images; None where no method needs proxies.
        store: where text features are kept between runs.
        progress: called as texts are encoded.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        id_images: IdImages | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
    ):
        self.backbone = backbone
        self.class_names = tuple(class_names)
        self.id_images = id_images
        self.store = store or Store(None)
        self.progress: Progress = progress or (lambda what, done, total: None)
        self._stored = StoredTexts(backbone, self.store, self.progress)
        self._spaces: dict[str, TextSpace] = {}
        self._labels: dict[tuple[str, ...], Tensor] = {}
        self._mined: dict[str, NegativeTexts] = {}
        self._shots: dict[tuple[int, str, int], tuple[Tensor, Tensor]] = {}
        self._proxies: dict[tuple[int, str, int], tuple[Tensor, Tensor]] = {}

    def space_for(self, method: SpaceRecipe, settings: MethodSettings) -> TextSpace:
        """The text space that a method wants: its own recipe, or the common one (`build`)."""
        if method.space is None:
            if not isinstance(settings, LabelSettings):
                raise TextSpaceError(
                    f"method '{method.name}' has neither a label prompt nor a text space of its own"
                )
            return self.build(settings)
        key = digest([method.name, as_mapping(settings)])
        if key not in self._spaces:
            self._spaces[key] = method.space(self, settings)
        return self._spaces[key]

    def build(self, settings: LabelSettings) -> TextSpace:
        """Labels and, as far as the settings ask for them, mined negatives and proxies.

        Built once per distinct settings.

        Raises:
            SettingsError: inter-modal negatives asked for without ID images.
        """
        if (key := digest(space_key(settings))) not in self._spaces:
            self._spaces[key] = self._build(settings)
        return self._spaces[key]

    def _build(self, settings: LabelSettings) -> TextSpace:
        labels = self.labels(settings.label_prompt)
        proxies = base = image_base = shots = shot_labels = None
        if self._has_proxies(settings):
            proxies, image_base = self.proxies(settings)
            base = base_cosine(labels, proxies)
            if settings.keeps_shots:
                shots, shot_labels = self.shots(settings)
        negatives = labels[:0]
        words: tuple[str, ...] = ()
        if mines(settings):
            mined = self.mined(settings)
            negatives, words = mined.features, mined.words
        return TextSpace(
            labels=labels,
            logit_scale=self.backbone.logit_scale,
            negatives=negatives,
            proxies=proxies,
            base=base,
            image_base=image_base,
            shots=shots,
            shot_labels=shot_labels,
            negative_words=words,
            class_names=self.class_names,
        )

    def _has_proxies(self, settings: LabelSettings) -> TypeGuard[IdImageSettings]:
        """Whether there are ID images, and the settings ask for them."""
        asked = isinstance(settings, IdImageSettings) and settings.reads_id_images
        return self.id_images is not None and asked

    # ---- the parts -----------------------------------------------------------------------

    def labels(self, prompt: str) -> Tensor:
        """(C, D) unit text features e_i of the class names.

        Raises:
            ClassNameError: names that become the same text for the tokenizer.
        """
        templates = prompt_set(prompt)
        if templates not in self._labels:
            # Checked here, since how much of a name the tokenizer sees depends on the prompt.
            check_tokens(self.class_names, self.backbone.tokenizer, templates)
            self._labels[templates] = torch.cat(
                list(self.texts(self.class_names, prompt, "labels"))
            )
        return self._labels[templates]

    def proxies(self, settings: IdImageSettings) -> tuple[Tensor, Tensor]:
        """Image proxies (C, D) and each class's mean cosine with its own proxy (C,).

        Raises:
            SettingsError: without ID images.
            ProxyError: a class without any.
        """
        key = (settings.images_per_class, settings.proxy_select, settings.proxy_seed)
        if key not in self._proxies:
            features, own = self.shots(settings)
            proxies = image_proxies(features, own, len(self.class_names))
            to_own = (features * proxies[own]).sum(dim=1)
            sums = torch.zeros(len(proxies), device=features.device).index_add_(0, own, to_own)
            self._proxies[key] = proxies, sums / torch.bincount(own, minlength=len(proxies))
        return self._proxies[key]

    def shots(self, settings: IdImageSettings) -> tuple[Tensor, Tensor]:
        """Features (n, D) of the ID images that make the image proxies, and their classes (n,).

        Raises:
            SettingsError: without ID images.
            ProxyError: a class without any.
        """
        if self.id_images is None:
            raise SettingsError(
                "image proxies (Eq. 7) need ID training images; give them, or set negatives: intra"
            )
        key = (settings.images_per_class, settings.proxy_select, settings.proxy_seed)
        if key not in self._shots:
            labels = np.asarray(self.id_images.labels)
            chosen = sample_id_images(labels, self.class_names, settings)
            features = self.id_images.features(chosen).to(self.backbone.device)
            self._shots[key] = features, torch.as_tensor(labels[chosen], device=features.device)
        return self._shots[key]

    def corpus(self, settings: CorpusSettings) -> Corpus:
        """The corpus without class names and duplicates."""
        return deduplicate(
            load_corpus(settings.corpus), self.class_names, ignore_case=settings.ignore_case
        )

    def mined(self, settings: NegativeSettings) -> NegativeTexts:
        """Negative texts as the settings select them (Eqs. 9, 10, or NegLabel's)."""
        if (key := digest(space_key(settings))) not in self._mined:
            self._mined[key] = self._mine(settings)
        return self._mined[key]

    def _mine(self, settings: NegativeSettings) -> NegativeTexts:
        layout = mined_layout(self.backbone.embed_dim)
        entry = self.store.entry("mined", self._mining_key(settings), 1, 1, layout)
        mined = None
        if entry.verified():  # then the corpus need not even be read
            mined = unpack(entry.read(0), self.backbone.device)
        if mined is None:
            mined = self._mine_anew(settings)
            entry.fill(lambda shards: iter([pack(mined)] * len(shards)))
        if not mined.words:
            warnings.warn(
                f"no text of the corpus '{settings.corpus}' is farther from every image proxy than "
                "the class's own label; there are no negative texts and every score is 1 until the "
                "bank has entries. Use another corpus, or negatives: intra",
                stacklevel=2,
            )
        return mined

    def _mining_key(self, settings: NegativeSettings) -> dict[str, Any]:
        """Everything that decides what `_mine_anew` finds."""
        key = self._criterion_key(settings)
        if self._has_proxies(settings):
            key["proxies"] = tensors_digest({"proxies": self.proxies(settings)[0]})
        return key | {
            **backbone_key(text_backbone(self.backbone, settings.corpus_precision)),
            "corpus": source_digest(settings.corpus),
            "classes": digest(self.class_names),
            "ignore_case": settings.ignore_case,
            "prompts": [prompt_set(settings.noun_prompt), prompt_set(settings.adjective_prompt)],
            "M": settings.num_negatives,
        }

    def _mine_anew(self, settings: NegativeSettings) -> NegativeTexts:
        corpus = self.corpus(settings)
        labels = self.labels(settings.label_prompt)
        # Intra-modal: nothing to measure the deviation against.
        proxies, base = torch.zeros_like(labels), labels.new_zeros(len(labels))
        if self._has_proxies(settings):
            proxies = self.proxies(settings)[0]
            base = base_cosine(labels, proxies)
        ranked = partial(
            self._stored.at(settings.corpus_precision).ranked,
            criterion=self.criterion(settings),
            criterion_key=self._criterion_key(settings),
        )
        return mine(
            corpus.nouns,
            ranked(corpus.nouns, settings.noun_prompt, "nouns"),
            corpus.adjectives,
            ranked(corpus.adjectives, settings.adjective_prompt, "adjectives"),
            settings.num_negatives,
            proxies,
            base,
        )

    def criterion(self, settings: NegativeSettings) -> Criterion:
        """How texts qualify and rank under the settings."""
        labels = self.labels(settings.label_prompt)
        if settings.negatives == "intra":
            return intra_modal(labels, settings.intra_quantile, settings.intra_quantile_rule)
        proxies, _ = self.proxies(settings)
        return inter_modal(proxies, base_cosine(labels, proxies))

    def _criterion_key(self, settings: NegativeSettings) -> dict[str, Any]:
        """What decides the ranks of texts beside the texts."""
        labels = self.labels(settings.label_prompt)
        if settings.negatives == "intra":
            rule = [settings.intra_quantile, settings.intra_quantile_rule]
            return {"intra": rule, "labels": tensors_digest({"labels": labels})}
        proxies, _ = self.proxies(settings)
        return {"inter": tensors_digest({"labels": labels, "proxies": proxies})}

    def texts(
        self,
        words: Sequence[str],
        prompt: str,
        what: str = "texts",
        *,
        average: Average = "unit",
        precision: TextPrecision = "same",
    ) -> Iterator[Tensor]:
        """Unit text features of words in chunks (n_k, D), kept on disk; see `TextSource.texts`."""
        return self._stored.at(precision).features(words, prompt, what, average)


def mines(settings: MethodSettings) -> TypeGuard[NegativeSettings]:
    """Whether a text space with these settings has mined negative texts."""
    return (
        isinstance(settings, NegativeSettings)
        and settings.negatives != "none"
        and settings.num_negatives > 0
    )

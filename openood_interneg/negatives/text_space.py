"""What a detector is fitted to, and what a method's recipe for it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from openood_interneg.negatives.corpus import Corpus, CorpusSettings
from openood_interneg.negatives.mining import Criterion, NegativeTexts
from openood_interneg.settings import (
    InternegError,
    LabelSettings,
    MethodSettings,
    NegativeSettings,
    as_mapping,
)
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.text_precision import TextPrecision

Average = Literal["unit", "raw"]


class TextSpaceError(InternegError, ValueError):
    """Features that make no text space."""


@dataclass(frozen=True)
class TextSpace:
    """Everything that a detector knows besides the stream, on one device, float32.

    Attributes:
        labels: (C, D) unit text features e_i of the ID labels.
        logit_scale: s = exp of CLIP's learned logit scale.
        negatives: (M, D) unit text features of the mined negative texts, best first within a
            part of speech, adjectives first; M may be 0.
        proxies: (C, D) unit image proxies p_i (Eq. 7), or None where no ID image was given.
        base: (C,) base cosines b_i (Eq. 8), or None.
        image_base: (C,) mean cosine of a class's ID images with its proxy: the intra-modal
            counterpart of `base`; or None.
        shots: (n, D) unit image features of the ID images that the proxies are made of, or None.
        shot_labels: (n,) int64, their classes, or None.
        negative_words: M words, or empty.
        class_names: C names, or empty.
        extra: what single methods need besides (documented by them), by name.
    """

    labels: Tensor
    logit_scale: float
    negatives: Tensor
    proxies: Tensor | None = None
    base: Tensor | None = None
    image_base: Tensor | None = None
    shots: Tensor | None = None
    shot_labels: Tensor | None = None
    negative_words: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("labels", "negatives", "proxies", "base", "image_base", "shots"):
            tensor = getattr(self, name)
            if tensor is not None and not _finite(tensor):
                raise TextSpaceError(f"the text space's {name} contain NaN or infinity")
        if self.proxies is not None and len(self.proxies) != len(self.labels):
            raise TextSpaceError(
                f"{len(self.proxies)} image proxies for {len(self.labels)} labels: the class "
                "names and the ID images do not belong together"
            )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.labels.device

    def to(self, device: str | torch.device) -> TextSpace:
        """The same space on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            labels=self.labels.to(device),
            negatives=self.negatives.to(device),
            proxies=move(self.proxies),
            base=move(self.base),
            image_base=move(self.image_base),
            shots=move(self.shots),
            shot_labels=move(self.shot_labels),
            extra={name: tensor.to(device) for name, tensor in self.extra.items()},
        )


def _finite(tensor: Tensor) -> bool:
    # In parts: the test holds more than the tensor itself, which may be millions of texts.
    return all(bool(torch.isfinite(part).all()) for part in tensor.split(4096))


class IdImages(Protocol):
    """Labelled ID images of which only those asked for are read.

    Attributes:
        labels: (n,) integer label of each image.
    """

    @property
    def labels(self) -> np.ndarray: ...

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) float32 unit image features."""


class TextSource(Protocol):
    """What a recipe may ask for; `space_builder.TextSpaceBuilder` is one.

    Attributes:
        class_names: C names, in label order.
        backbone: the frozen model.
        id_images: ID training images, or None.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def backbone(self) -> Backbone: ...

    @property
    def id_images(self) -> IdImages | None: ...

    def labels(self, prompt: str) -> Tensor:
        """(C, D) unit text features of the class names under a prompt set."""

    def texts(
        self,
        words: Sequence[str],
        prompt: str,
        what: str = "texts",
        *,
        average: Average = "unit",
        precision: TextPrecision = "same",
    ) -> Iterator[Tensor]:
        """Unit text features of words under a prompt set, in chunks (n_k, D), kept on disk.

        Args:
            words: n texts.
            prompt: prompt set or template.
            what: names the texts in the progress.
            average: over the templates, of unit features, or of features as they are before
                normalisation.
            precision: of the text tower, see `text_precision.text_precision`.
        """

    def corpus(self, settings: CorpusSettings) -> Corpus:
        """The corpus of the settings without class names and duplicates."""

    def criterion(self, settings: NegativeSettings) -> Criterion:
        """How texts qualify and rank under the settings."""

    def mined(self, settings: NegativeSettings) -> NegativeTexts:
        """The negative texts that the settings select."""

    def build(self, settings: LabelSettings) -> TextSpace:
        """The common text space: labels and, by the settings, mined negatives and proxies."""

    def space_for(self, method: SpaceRecipe, settings: MethodSettings) -> TextSpace:
        """The text space that a method wants: its own recipe, or the common one (`build`)."""


class SpaceRecipe(Protocol):
    """What of a method decides its text space.

    Attributes:
        name: of the method.
        space: (source, settings of the method) -> text space; None for `TextSource.build`.
    """

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> Callable[[Any, Any], TextSpace] | None: ...


def space_key(settings: LabelSettings) -> dict[str, Any]:
    """The settings that decide a text space, and whether ID images are part of it."""
    names = {f.name for f in fields(NegativeSettings)}
    own = {name: value for name, value in as_mapping(settings).items() if name in names}
    return own | {"ID images": settings.reads_id_images, "shots": settings.keeps_shots}

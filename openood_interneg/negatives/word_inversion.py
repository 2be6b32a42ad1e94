"""TINS's inversion: from the mined word that is nearest to the image, away from the proxies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from openood_interneg.data.digests import digest, tensors_digest
from openood_interneg.data.encode import backbone_key
from openood_interneg.negatives.inversion import (
    CHUNK_BYTES,
    InversionError,
    PseudoPrompter,
    invert,
)
from openood_interneg.negatives.stored_inversion import Inversion
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.pseudo_prompts import prompts_at
from openood_interneg.vlm.text_tower import CausalTextTower


@dataclass(frozen=True)
class WordPrompts:
    """Prompts of M words in which the last token of the word will be optimised.

    Attributes:
        features: (M, D) unit text features of the prompts as they are.
        spell: m numbers of words -> (m, context) int64 token ids of their prompts, and (m,) int64
            place of the word's last token in each.
        embedding: (vocabulary, width), the tower's embedding of tokens.
        prepare: (tokens, positions) -> prompts whose token at that place is replaced.
    """

    features: Tensor
    spell: Callable[[Sequence[int]], tuple[Tensor, Tensor]]
    embedding: Tensor
    prepare: Callable[[Tensor, Tensor], PseudoPrompter]


def word_prompts(
    backbone: Backbone, words: Sequence[str], template: str, features: Tensor
) -> WordPrompts:
    """Prompts of words for a backbone.

    Args:
        backbone: the frozen model.
        words: M words.
        template: with one "{}".
        features: (M, D) unit text features of the words under the template.

    Raises:
        InversionError: a text tower whose prompts do not end with the end-of-text token.
    """
    tower = backbone.text_tower
    if not isinstance(tower, CausalTextTower):
        raise InversionError(
            f"the text tower of {backbone.name} is not CLIP's; inversions that start from a word "
            "need a causal tower with an end-of-text token"
        )

    def spell(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        whole, cut = word_texts([words[i] for i in numbers], template)
        return backbone.tokenizer(whole), tower.eot(backbone.tokenizer(cut)) - 1

    return WordPrompts(
        features,
        spell,
        tower.token_embedding,
        lambda tokens, positions: prompts_at(tower, tokens, 1, positions),
    )


@dataclass
class WordInverter:
    """Callable (h, ids) -> inversions, as a detector wants it injected. Ids play no part.

    The loss of an image is (1 - e.h) + lambda mean_i (1 + e.p_i), up to a constant that of
    inverting h - lambda p_bar; it starts at the word whose prompt has the smallest loss.

    Attributes:
        words: the mined words' prompts.
        shift: (D,) lambda p_bar.
        steps, lr, weight_decay: of AdamW. eps: as `inversion.invert`.
    """

    words: WordPrompts
    shift: Tensor
    steps: int = 30
    lr: float = 2e-2
    weight_decay: float = 0.01
    eps: float = 1e-8

    def choose(self, features: Tensor) -> Tensor:
        """(B,) int64, the word that each image starts from."""
        return ((features - self.shift) @ self.words.features.t()).argmax(dim=1)

    def optimise(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `inversion.invert`: tokens (B, 1, width), embeddings (B, D), losses (S, B)."""
        words = self.words
        which, index = self.choose(features).cpu().unique(return_inverse=True)
        tokens, positions = words.spell(which.tolist())
        own = tokens[torch.arange(len(tokens)), positions].to(words.embedding.device)
        initial = words.embedding[own].float()[index.to(words.embedding.device)][:, None]
        schedule = index[None].expand(self.steps, -1)
        return invert(
            words.prepare(tokens, positions),
            features - self.shift,
            initial,
            schedule,
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
        )

    def __call__(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B, D) unit image features -> (B, D) unit text features."""
        if not len(features):
            return torch.empty_like(features)
        return torch.cat([self.optimise(part)[1] for part in features.split(self._chunk)])

    @cached_property
    def _chunk(self) -> int:
        """Images that are inverted at once."""
        probe = self.words.prepare(*self.words.spell([0]))
        return max(CHUNK_BYTES // probe.bytes_per_image, 1)


def repulsion_shift(proxies: Tensor, repulsion: float) -> Tensor:
    """lambda p_bar: TINS inverts h minus this instead of h.

    For a unit e, (1 - e.h) + lambda mean_i (1 + e.p_i) = (1 + lambda) - e.(h - lambda p_bar), with
    p_bar the mean of the proxies, not normalised.

    Args:
        proxies: (C, D) unit rows.
        repulsion: lambda.

    Returns:
        (D,).
    """
    return repulsion * proxies.mean(dim=0)


def word_texts(words: Sequence[str], template: str) -> tuple[list[str], list[str]]:
    """The prompts of words, and the same cut after the word."""
    before, _, after = template.partition("{}")
    return [f"{before}{word}{after}" for word in words], [f"{before}{word}" for word in words]


class WordInversionSettings(Protocol):
    """The settings that an inversion from words needs."""

    @property
    def word_template(self) -> str: ...

    @property
    def repulsion(self) -> float: ...

    @property
    def steps(self) -> int: ...

    @property
    def lr(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...


def word_inversion(
    source: TextSource, settings: WordInversionSettings, space: TextSpace
) -> Inversion:
    """Inversion from the mined words of a space, kept from its image proxies.

    Args:
        source: encodes the words under the template when the first inversion is computed.
        settings: template, lambda, and those of AdamW.
        space: with negative words and proxies.

    Raises:
        InversionError: the space has no negative words, or no proxies.
    """
    backbone, words, proxies = source.backbone, space.negative_words, space.proxies
    if not words or proxies is None:
        raise InversionError(
            "inversions start from a mined word and are kept from the image proxies; mine "
            "negative texts (num_negatives, negatives) and give ID images"
        )
    shift = repulsion_shift(proxies, settings.repulsion)
    key = {
        "start": "nearest word",
        **backbone_key(backbone),
        "words": digest(list(words)),
        "template": settings.word_template,
        "shift": tensors_digest({"shift": shift}),
        "steps": settings.steps,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
    }

    def make() -> WordInverter:
        chunks = source.texts(words, settings.word_template, "prompts of the negatives")
        prompts = word_prompts(backbone, words, settings.word_template, torch.cat(list(chunks)))
        return WordInverter(
            prompts,
            shift,
            steps=settings.steps,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )

    return Inversion(key, make)

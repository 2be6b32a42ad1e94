"""TINS's inversion: from the mined word that is nearest to the image, away from the proxies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.negatives.inversion import CHUNK_BYTES, PseudoPrompter, invert


@dataclass(frozen=True)
class WordPrompts:
    """Prompts of M words in which the last token of the word will be optimised.

    Attributes:
        features: (M, D) unit text features of the prompts as they are.
        tokens: (M, context) int64 token ids.
        positions: (M,) int64, place of the word's last token.
        initial: (M, width) float32, its embedding.
        prepare: (tokens, positions) -> prompts whose token at that place is replaced.
    """

    features: Tensor
    tokens: Tensor
    positions: Tensor
    initial: Tensor
    prepare: Callable[[Tensor, Tensor], PseudoPrompter]


def last_word_positions(words_only: Tensor) -> Tensor:
    """Place of the last token of the word in each prompt.

    It is where the prompt cut after the word, with its start and end token, has its last token
    before the end.

    Args:
        words_only: (M, context) token ids of the prompts without what stands after the word.

    Returns:
        (M,) int64.
    """
    return (words_only != 0).sum(dim=1) - 2


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
        chosen = self.choose(features)
        which, index = chosen.unique(return_inverse=True)
        which = which.cpu()
        prompts = self.words.prepare(self.words.tokens[which], self.words.positions[which])
        initial = self.words.initial[chosen.to(self.words.initial.device)][:, None]
        schedule = index.cpu()[None].expand(self.steps, -1)
        return invert(
            prompts,
            features - self.shift,
            initial,
            schedule,
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
        )

    def __call__(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B, D) unit image features -> (B, D) unit text features."""
        probe = self.words.prepare(self.words.tokens[:1], self.words.positions[:1])
        chunk = max(CHUNK_BYTES // probe.bytes_per_image, 1)
        parts = [self.optimise(part)[1] for part in features.split(chunk)]
        return torch.cat(parts) if parts else torch.empty_like(features)


def word_texts(words: Sequence[str], template: str) -> tuple[list[str], list[str]]:
    """The prompts of words, and the same cut after the word."""
    before, _, after = template.partition("{}")
    return [f"{before}{word}{after}" for word in words], [f"{before}{word}" for word in words]

"""A closed form for where an inversion starts: the token embedding of the word that h looks like.

CLIP's own vocabulary says how a text feature and the embedding of its word go together: the nouns
of the corpus that are one token give pairs of both, and ridge regression gives a linear map from
one to the other. An image feature lies beside the text features by the modality gap (Liang et al.,
NeurIPS 2022); moved by the gap between labels and image proxies it is mapped like a text.

Not in the paper, whose inversions start at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openood_interneg.data.digests import digest, tensors_digest
from openood_interneg.negatives.corpus import source_digest
from openood_interneg.negatives.inversion import InversionError, LiveInverter
from openood_interneg.negatives.stored_inversion import (
    Inversion,
    live_inverter,
    pseudo_token_inversion,
)
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import InversionSettings, NegativeSettings
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.text_tower import CausalTextTower, FullLengthTextTower
from openood_interneg.vlm.tokenizers import Tokenizer

PENALTY = 1e-2  # of the ridge, as a share of the features' mean variance times their number


def single_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The words that are one token.

    Args:
        tokenizer: of the model.
        words: n texts.

    Returns:
        (m,) int64 numbers of those words, and (m,) int64 ids of their tokens.
    """
    blank = tokenizer([""]).unique()
    tokens = tokenizer(list(words))
    own = ~torch.isin(tokens, blank)
    which = (own.sum(dim=1) == 1).nonzero()[:, 0]
    return which, tokens[which][own[which]]


@dataclass(frozen=True)
class TokenMap:
    """An affine map (B, D) -> (B, width), float64.

    Attributes:
        weight: (D, width).
        offset: (width,).
    """

    weight: Tensor
    offset: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) text features -> (B, width) token embeddings, float64 on the CPU."""
        return features.cpu().double() @ self.weight + self.offset


def fit_token_map(features: Tensor, embeddings: Tensor, penalty: float = PENALTY) -> TokenMap:
    """Ridge regression of token embeddings on text features, with an offset.

    Args:
        features: (m, D) unit text features of words, m > 0.
        embeddings: (m, width) the embeddings of their tokens.
        penalty: of the squared weights, as a share of the features' mean variance times m.

    Raises:
        InversionError: no words.
    """
    if not len(features):
        raise InversionError("a map from texts to tokens needs words; there is none")
    x, y = features.cpu().double(), embeddings.cpu().double()
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_x, y - mean_y
    square = x.t() @ x
    # The small constant keeps a single word, whose variance is zero, solvable.
    ridge = penalty * square.diagonal().mean() + 1e-12
    weight = torch.linalg.solve(square + ridge * torch.eye(len(square)).double(), x.t() @ y)
    return TokenMap(weight, mean_y - mean_x @ weight)


@dataclass(frozen=True)
class TokenStart:
    """Initial pseudo-tokens of images: a `LiveInverter` takes it as its `start`.

    Attributes:
        token_map: from text features to token embeddings.
        gap: (D,) mean of the labels' text features minus mean of the image proxies.
        num_tokens: T; all of them start from the same embedding.
    """

    token_map: TokenMap
    gap: Tensor
    num_tokens: int = 1

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) unit image features -> (B, T, width) float32 on the CPU."""
        moved = features.cpu().double() + self.gap.cpu().double()
        tokens = self.token_map(moved / moved.norm(dim=1, keepdim=True))
        return tokens.float()[:, None].expand(-1, self.num_tokens, -1).contiguous()


def modality_gap(space: TextSpace) -> Tensor:
    """(D,) mean of the label features minus mean of the image proxies, neither normalised.

    Raises:
        InversionError: a space without proxies.
    """
    if space.proxies is None:
        raise InversionError(
            "init: words moves images by the gap between the labels and the image proxies; give "
            "ID images, or set init: random"
        )
    return space.labels.mean(dim=0) - space.proxies.mean(dim=0)


def token_start(
    source: TextSource, settings: NegativeSettings, gap: Tensor, num_tokens: int
) -> TokenStart:
    """Fits the map on the single-token nouns of the corpus, under the prompt that they are mined
    with, so that their features are in the store already where negatives were mined.

    Raises:
        InversionError: no noun is one token for the model.
    """
    tower = source.backbone.text_tower
    nouns = source.corpus(settings).nouns
    which, ids = single_tokens(source.backbone.tokenizer, nouns)
    if not len(which):
        raise InversionError(
            f"init: words needs nouns that are one token of {source.backbone.name}; the corpus "
            f"'{settings.corpus}' has none: take another corpus, or set init: random"
        )
    features = torch.cat(list(source.texts(nouns, settings.noun_prompt, "nouns")))
    embedding = _embedding(tower)
    pairs = features[which.to(features.device)], embedding[ids.to(embedding.device)]
    return TokenStart(fit_token_map(*pairs), gap, num_tokens)


def _embedding(tower: CausalTextTower | FullLengthTextTower) -> Tensor:
    if isinstance(tower, CausalTextTower):
        return tower.token_embedding
    return tower.embedding.weight.detach()


def word_started_inversion(
    source: TextSource, settings: InversionSettings, space: TextSpace
) -> Inversion:
    """The paper's inversion (Algorithm 2), from the start that `TokenStart` gives.

    The templates are still drawn by (seed, id).

    Raises:
        InversionError: settings without a corpus; a space without proxies.
    """
    if not isinstance(settings, NegativeSettings):
        raise InversionError(
            f"init: words fits a map on the nouns of a corpus, and {type(settings).__name__} has "
            "no setting 'corpus'; set init: random"
        )
    plain = pseudo_token_inversion(source.backbone, settings)
    gap = modality_gap(space)
    key = {
        **plain.key,
        "start": "ridge map of nouns",
        "penalty": PENALTY,
        "corpus": source_digest(settings.corpus),
        "classes": digest(source.class_names),
        "ignore_case": settings.ignore_case,
        "noun_prompt": prompt_set(settings.noun_prompt),
        "gap": tensors_digest({"gap": gap}),
    }

    def make() -> LiveInverter:
        start = token_start(source, settings, gap, settings.num_tokens)
        return replace(live_inverter(source.backbone, settings), start=start)

    return Inversion(key, make)

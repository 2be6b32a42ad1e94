"""Texts of CSP: conjugated phrases, averages of un-normalised features, and the veto."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.negatives.mining import Criterion
from openood_interneg.vlm.prompts import fill, prompt_set

# The 14 words of CSP's code; fixed, not derived from the ID classes.
SUPERCLASSES = (
    "environment", "space", "object", "scene", "place", "item", "area",
    "view", "thing", "pattern", "structure", "landscape", "vista", "creature",
)  # fmt: skip

EXCLUDED = ("noun.person", "noun.quantity", "noun.group", "adj.pert")

BATCH_TOKENS = 8192


def conjugate(
    adjectives: Sequence[str], superclasses: Sequence[str] = SUPERCLASSES, seed: int = 0
) -> dict[str, str]:
    """One phrase "adjective superclass" per adjective.

    The authors' code draws in the order in which the operating system lists the corpus files, so
    its phrases differ between machines. Here the draw goes over the sorted distinct adjectives:
    the same words give the same phrases everywhere, whatever their order.
    """
    rng = random.Random(seed)
    return {
        # random() is the one method whose sequence Python keeps across versions.
        word: f"{word} {superclasses[int(rng.random() * len(superclasses))]}"
        for word in sorted(set(adjectives))
    }


def with_veto(criterion: Criterion, labels: Tensor, threshold: float) -> Criterion:
    """Ranks texts last (similarity 1) whose cosine with any label (C, D) is above `threshold`."""

    def look(texts: Tensor) -> tuple[Tensor, Tensor]:
        passes, rank = criterion(texts)
        double = (texts @ labels.t()).amax(dim=1) > threshold
        return passes, rank.masked_fill(double, -1.0)  # rank is minus the similarity

    return look


# ---- averages of un-normalised features ------------------------------------------------------


def raw_encoder(backbone: Any) -> Callable[[Tensor], Tensor]:
    """Tokens (B, context) -> text features (B, D) as they are before normalisation.

    A text tower gives unit rows. Where its projection gets one more output that is always 1,
    normalising (x, 1) divides that 1 by the same norm, so x is the quotient of the two: exact,
    and as fast as the truncated tower is.
    """
    tower = backbone.text_tower
    if not tower.exact_truncation:  # the model's own forward, which does not normalise
        return lambda tokens: tower.encode_text(tokens.to(tower.device)).float()
    longer = copy.copy(tower)  # shares all weights but the projection
    if tower.projection is None:
        weight, bias = torch.eye(tower.width, device=tower.device), None
    else:
        weight, bias = tower.projection
    if bias is None:
        bias = weight.new_zeros(len(weight))
    longer.projection = F.pad(weight, (0, 0, 0, 1)), F.pad(bias, (0, 1), value=1.0)

    def encode(tokens: Tensor) -> Tensor:
        extended = longer.encode(tokens)
        return extended[:, :-1] / extended[:, -1:]

    return encode


@torch.no_grad()
def encode_ensemble(
    backbone: Any,
    names: Sequence[str],
    templates: Sequence[str],
    progress: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Average of the un-normalised features over the templates, then normalised: (n, D).

    `Backbone.encode_prompts` averages unit features; a template with a long feature weighs more
    here. With one template the two are the same.
    """
    if not len(names):
        return torch.empty(0, backbone.embed_dim, device=backbone.device)
    encode = raw_encoder(backbone)
    total = torch.zeros(len(names), backbone.embed_dim, device=backbone.device)
    for template in templates:
        tokens = backbone.tokenizer([fill(template, name) for name in names])
        # Prompts of like length together: the tower cuts a batch after its longest.
        used = (tokens != 0).sum(dim=1)
        for rows in used.argsort(stable=True).split(max(BATCH_TOKENS // int(used.max()), 1)):
            total[rows.to(total.device)] += encode(tokens[rows])
            progress(len(rows))
    return F.normalize(total, dim=-1)


def ensemble_texts(source: Any, words: Sequence[str], prompt: str, what: str) -> Iterator[Tensor]:
    """`SpaceSource.texts` with un-normalised averaging: chunks (n_k, D), kept on disk."""
    if len(prompt_set(prompt)) == 1:  # nothing is averaged: shared with the other methods
        return source.texts(words, prompt, what)
    return source.texts(words, prompt, what, encode=encode_ensemble, kind="texts_unnormalised_mean")

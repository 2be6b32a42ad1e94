"""Text features averaged over templates before they are normalised, as CSP's code does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import fill
from openood_interneg.vlm.text_tower import CausalTextTower

BATCH_TOKENS = 8192


def raw_encoder(backbone: Backbone) -> Callable[[Tensor], Tensor]:
    """Tokens (B, context) -> text features (B, D) as they are before normalisation.

    A text tower gives unit rows. Where its projection gets one more output that is always 1,
    normalising (x, 1) divides that 1 by the same norm, so x is the quotient of the two: exact,
    and as fast as the truncated tower is.
    """
    tower = backbone.text_tower
    if not isinstance(tower, CausalTextTower):  # the model's own forward, which does not normalise
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
    backbone: Backbone,
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

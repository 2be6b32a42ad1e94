"""Prompt templates with a hole for pseudo-tokens.

Everything before the hole is computed once. See `text_tower` for why this is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openood_interneg.settings import InternegError
from openood_interneg.vlm.pseudo_backward import Embed, Layout
from openood_interneg.vlm.text_tower import CausalTextTower, FullLengthTextTower
from openood_interneg.vlm.tokenizers import Tokenizer
from openood_interneg.vlm.tower_weights import causal_bias

PLACEHOLDER = "$"
# SigLIP's tokenizers drop punctuation; a letter or a rare word stands in there.
_PLACEHOLDERS = (PLACEHOLDER, "q", "x", "z", "zebra", "kiosk")


class TextTowerError(InternegError, ValueError):
    """A prompt that cannot hold the pseudo-tokens."""


def placeholder_ids(tokenizer: Tokenizer, placeholder: str = PLACEHOLDER) -> list[int]:
    """Ids of the placeholder, from the tokenizer itself: what differs from blank text.

    Pseudo-tokens need one; several mean that the tokenizer splits the placeholder.
    """
    filled, blank = tokenizer([placeholder, ""])
    return [t for t in filled.tolist() if t not in set(blank.tolist())]


def find_placeholder(tokenizer: Tokenizer, blank_prompts: Sequence[str]) -> tuple[str, int] | None:
    """A text that is one token, which the prompts without it do not have, and that token's id.

    Args:
        tokenizer: of the model.
        blank_prompts: the templates with nothing in them.

    Returns:
        None where there is no such text.
    """
    used = set(tokenizer(list(blank_prompts)).flatten().tolist())
    for text in _PLACEHOLDERS:
        ids = placeholder_ids(tokenizer, text)
        if text == PLACEHOLDER and len(ids) == 1:
            return text, ids[0]  # a prompt that has it, too, is refused by name
        if len(ids) == 1 and ids[0] not in used:
            return text, ids[0]
    return None


def pseudo_prompts(
    tower: CausalTextTower | FullLengthTextTower,
    tokens: Tensor,
    num_tokens: int,
    placeholder: int,
) -> PseudoPrompts | FullLengthPseudoPrompts:
    """Prepares prompt templates whose placeholder tokens will be optimised.

    Args:
        tower: the text tower.
        tokens: (n, context) int64, each row with `num_tokens` consecutive placeholders.
        num_tokens: T, pseudo-tokens per prompt.
        placeholder: token id of the placeholder.

    Raises:
        TextTowerError: a row without exactly T consecutive placeholders.
    """
    return prompts_at(tower, tokens, num_tokens, placeholder_start(tokens, num_tokens, placeholder))


def prompts_at(
    tower: CausalTextTower | FullLengthTextTower, tokens: Tensor, num_tokens: int, start: Tensor
) -> PseudoPrompts | FullLengthPseudoPrompts:
    """`pseudo_prompts` where it is known what to replace.

    Args:
        tower: the text tower.
        tokens: (n, context) int64 prompts.
        num_tokens: T, tokens replaced per prompt.
        start: (n,) int64, place of the first of them.
    """
    tokens, start = tokens.to(tower.device), start.to(tower.device)
    if isinstance(tower, CausalTextTower):
        return PseudoPrompts(tower, tokens, num_tokens, start)
    return FullLengthPseudoPrompts(tower, tokens, num_tokens, start)


class PseudoPrompts:
    """Templates with a hole for T pseudo-tokens; everything before the hole is cached.

    Prompts are laid out as [prefix | pseudo-tokens, rest, end of text]. `embed` is the only
    thing that an inversion calls; it is differentiable in the pseudo-tokens.

    Kept per template: keys and values of the prefix in every layer, and what the first layer
    makes of the rest of the prompt. The weights are read once per call, whatever the lengths.
    """

    def __init__(self, tower: CausalTextTower, tokens: Tensor, num_tokens: int, start: Tensor):
        self.tower = tower
        self.num_tokens = num_tokens
        self.width = tower.width
        eot = tower.eot(tokens) - start
        self.length = (eot + 1).cpu()  # layouts are planned on the CPU: no waiting for a GPU
        self.start = start.cpu()
        length, depth = int(self.length.max()), int(self.start.max())
        device = tokens.device
        with torch.no_grad():
            if depth:
                cache = tower.cache(tokens[:, :depth])
                # per layer (n, P, 2, heads, head_dim) float32: keys and values
                self.prefix = [
                    torch.stack([k.transpose(1, 2), v.transpose(1, 2)], dim=2).float()
                    for k, v in cache
                ]
            else:
                heads = [block.heads for block in tower.blocks]
                shapes = [(len(tokens), 0, 2, h, tower.width // h) for h in heads]
                self.prefix = [torch.zeros(shape, device=device) for shape in shapes]
            hidden = torch.arange(depth, device=device)[None] >= start[:, None]  # (n, P)
            self.ragged = bool(hidden.any())
            self.prefix_bias = torch.zeros(hidden.shape, device=device).masked_fill(
                hidden, float("-inf")
            )
            self.causal_bias = causal_bias(length, 0, device)[0, 0]  # (L, L)
            # Columns past the end of a short prompt repeat its last position: never read.
            at = start[:, None] + torch.arange(length, device=device)
            at = at.clamp(max=tokens.shape[1] - 1)
            position = tower.positional_embedding[at]  # (n, L, width)
            self.suffix = tower.token_embedding[tokens.gather(1, at)].float() + position
            self.hole = position[:, :num_tokens]  # (n, T, width)
            first = tower.blocks[0]
            self.first_qkv = F.linear(tower._norm_1(first, self.suffix), *first.qkv).float()

    @property
    def bytes_per_image(self) -> int:
        """Memory that one image takes while it is inverted, at most."""
        length, depth = int(self.length.max()), int(self.start.max())
        size = self.tower.dtype.itemsize
        position = self.width * (
            4 * 4 + 6 * size
        )  # kept for the backward pass: x, x', queries, MLP
        attention = 2 * 4 * self.width * (length + depth)  # keys and values
        working = length * self.width * (12 * size + 24)  # of one layer
        return len(self.tower.blocks) * (length * position + attention) + working

    def embed(self, index: Tensor, pseudo: Tensor) -> Tensor:
        """Unit text features (B, D) of templates `index` filled with `pseudo`.

        Args:
            index: (B,) int64, which template each row uses; best on the CPU, where a GPU need
                not be waited for.
            pseudo: (B, T, width) float32 pseudo-tokens.
        """
        return Embed.apply(pseudo, self, self._layout(index.cpu()))

    def _layout(self, index: Tensor) -> Layout:
        device = self.suffix.device
        lengths = self.length[index]
        length, depth = int(lengths.max()), int(self.start[index].max())
        begin = lengths.cumsum(0) - lengths
        slots = None
        if int(lengths.min()) < length:
            filled = torch.arange(length) < lengths[:, None]
            slots = filled.flatten().nonzero()[:, 0].to(device)
        eot = (lengths - 1).to(device)
        at = index.to(device)
        past = self.prefix_bias[at] if self.ragged else self.prefix_bias[:1]
        past = past[:, None, None, :depth]  # (B or 1, 1, 1, P)
        causal = self.causal_bias[:length, :length]
        if slots is None:
            last = causal[None, None, -1:]
        else:
            last = causal[eot][:, None, None]
        return Layout(
            index=at,
            length=length,
            depth=depth,
            total=int(lengths.sum()),
            slots=slots,
            first=(begin[:, None] + torch.arange(self.num_tokens)).to(device),
            last=(begin + lengths - 1).to(device),
            eot=eot,
            bias=_side_by_side(past, causal[None, None]),
            last_bias=_side_by_side(past, last),
        )


class FullLengthPseudoPrompts:
    """`PseudoPrompts` without shortcuts: the embedding layer's output is overwritten."""

    def __init__(self, tower: FullLengthTextTower, tokens: Tensor, num_tokens: int, start: Tensor):
        self.tower, self.tokens, self.num_tokens = tower, tokens, num_tokens
        self.width = tower.width
        self.start = start

    @property
    def bytes_per_image(self) -> int:
        """Memory that one image takes while it is inverted, for a tower of 24 layers."""
        return 24 * 20 * 4 * self.tokens.shape[1] * self.width

    def embed(self, index: Tensor, pseudo: Tensor) -> Tensor:
        """Unit text features (B, D) of templates `index` filled with `pseudo`."""
        index = index.to(self.start.device)
        columns = self.start[index][:, None] + torch.arange(self.num_tokens, device=index.device)
        rows = torch.arange(len(index), device=index.device)[:, None]

        def fill(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output = output.clone()
            output[rows, columns] = pseudo.to(output.dtype)
            return output

        hook = self.tower.embedding.register_forward_hook(fill)
        try:
            features = self.tower.encode_text(self.tokens[index])
        finally:
            hook.remove()
        return F.normalize(features.float(), dim=-1)


def _side_by_side(past: Tensor, own: Tensor) -> Tensor:
    """Masks (b, 1, 1, P) and (c, 1, l, L), b and c 1 or B -> (1 or B, 1, l, P + L)."""
    rows = max(len(past), len(own))
    past = past.expand(rows, -1, own.shape[2], -1)
    return torch.cat([past, own.expand(rows, -1, -1, -1)], dim=-1)


def placeholder_start(tokens: Tensor, num_tokens: int, placeholder: int) -> Tensor:
    """Position of the first placeholder in each row, (n,) int64.

    Raises:
        TextTowerError: where a row does not hold exactly T consecutive placeholders (a template
            that is too long for the context, or that contains the placeholder itself).
    """
    here = tokens == placeholder
    start = here.int().argmax(dim=1)
    wanted = start[:, None] + torch.arange(num_tokens, device=tokens.device)
    good = (here.sum(1) == num_tokens) & here.gather(1, wanted.clamp(max=tokens.shape[1] - 1)).all(
        1
    )
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise TextTowerError(
            f"template number {row} does not hold {num_tokens} pseudo-token(s) in a row: it is "
            f"longer than the text tower's {tokens.shape[1]} positions, or contains "
            f"'{PLACEHOLDER}'; shorten it or take that character out"
        )
    return start

"""Modality inversion: a text embedding that says what an image shows (Algorithm 2, Eq. 12).

T pseudo-tokens v take the place of the words in a prompt; v is optimised with AdamW until the
prompt's text feature points where the image feature does. CLIP is frozen: only v has a gradient.

Randomness is counter-based. The initial tokens and the templates of an image depend on
(seed, id of the image) and on nothing else, so the same image gives the same inversion in any
batch, order, process or device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from openood_interneg.settings import InternegError

INIT_STD = 0.02
CHUNK_BYTES = 512 * 2**20  # of activations while images are inverted

Inverter = Callable[[Tensor, Tensor], Tensor]  # (B, D) features, (B,) ids -> (B, D) unit rows


class PseudoPrompter(Protocol):
    """What an inversion needs of a text tower: `vlm.pseudo_prompts.PseudoPrompts` fits."""

    width: int
    num_tokens: int

    @property
    def bytes_per_image(self) -> int:
        """Memory that one image takes while it is inverted."""

    def embed(self, index: Tensor, pseudo: Tensor) -> Tensor:
        """(B,) template numbers, (B, T, width) tokens -> (B, D) unit text features."""


class InversionError(InternegError, ValueError):
    """Features that cannot be inverted."""


def random_start(
    ids: Sequence[int] | Tensor, seed: int, num_tokens: int, width: int, templates: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Initial tokens ~ N(0, 0.02^2) and template schedule of images, by (seed, id) alone.

    Args:
        ids: B image ids, non-negative int64.
        seed: of the whole run, non-negative.
        templates: how many templates there are to draw from.

    Returns:
        (B, T, width) float32 and (steps, B) int64, on the CPU.
    """
    counters = np.asarray(ids, dtype=np.int64).astype(np.uint64)
    base = _mix(_mix(np.array([seed], dtype=np.uint64)) ^ counters)[
        :, None
    ]  # (B, 1), a stream per image
    size = num_tokens * width
    tokens = INIT_STD * _normal(base, size).reshape(len(counters), num_tokens, width)
    picks = _bits(base, 2 * size, steps) % np.uint64(templates)
    schedule = np.ascontiguousarray(picks.astype(np.int64).T)
    return torch.from_numpy(tokens.astype(np.float32)), torch.from_numpy(schedule)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on uint64 (Steele et al., OOPSLA 2014); wraps around."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bits(base: np.ndarray, start: int, count: int) -> np.ndarray:
    """64 random bits per image and counter value, (B, count)."""
    # A library's normal sampler may change between its versions; these bits never will.
    counter = np.arange(start, start + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(base + counter)


def _normal(base: np.ndarray, count: int) -> np.ndarray:
    """Standard normal numbers by Box and Muller, (B, count) float64; uses 2 * count counters."""
    uniform = (_bits(base, 0, 2 * count) >> np.uint64(11)) * 2.0**-53  # [0, 1)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :count]))
    return radius * np.cos(2.0 * np.pi * uniform[:, count:])


def invert(
    prompts: PseudoPrompter,
    features: Tensor,
    initial_tokens: Tensor,
    schedule: Tensor,
    *,
    lr: float = 2e-2,
    weight_decay: float = 0.01,
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Optimises pseudo-tokens so that the prompt's text feature matches the image's (Alg. 2).

    The loss of an image is 1 - cos(e_v, h); images do not influence one another. The authors'
    code averages the loss over the gated images of a batch, which in AdamW amounts to a larger
    `eps` (1e-8 times their number): pass that to get its numbers.

    Args:
        prompts: the templates.
        features: (B, D) float32 unit image features h.
        initial_tokens: (B, T, width) float32 v before the first step.
        schedule: (S, B) int64, template of each image in each step.

    Returns:
        tokens (B, T, width) after S steps; embeddings (B, D) float32 unit rows, the text feature
        of the last step's templates with those tokens; losses (S, B) before each step.

    Raises:
        InversionError: features that are not finite.
    """
    if not bool(torch.isfinite(features).all()):
        raise InversionError("an image feature with NaN or infinity cannot be inverted")
    device = features.device
    schedule = schedule.cpu()  # layouts are planned there: no step waits for a GPU
    tokens = initial_tokens.to(device, torch.float32).clone()
    losses = features.new_empty(schedule.shape)
    with torch.enable_grad():
        tokens.requires_grad_(True)
        optimizer = torch.optim.AdamW([tokens], lr=lr, weight_decay=weight_decay, eps=eps)
        for step, index in enumerate(schedule):
            # Features may come from inference mode; the product needs no gradient for them.
            loss = 1 - (prompts.embed(index, tokens) * features.detach()).sum(dim=1)
            losses[step] = loss.detach()
            tokens.grad = torch.autograd.grad(loss.sum(), tokens)[0]
            optimizer.step()
    tokens = tokens.detach()
    with torch.no_grad():
        embeddings = prompts.embed(schedule[-1], tokens)
    return tokens, embeddings.float(), losses


@dataclass
class LiveInverter:
    """Callable (h, ids) -> inversions, as a detector wants it injected.

    Attributes:
        prompts: the templates of the run, prepared by `Backbone.pseudo_prompts`.
        templates: how many there are.
        chunk: images inverted at once; None takes as many as `CHUNK_BYTES` hold. It bounds
            memory and does not change results.
        start: (B, D) features -> (B, T, width) tokens before the first step; drawn if None.
    """

    prompts: PseudoPrompter
    templates: int
    steps: int = 10
    lr: float = 2e-2
    weight_decay: float = 0.01
    seed: int = 0
    chunk: int | None = None
    start: Callable[[Tensor], Tensor] | None = None

    def __call__(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B, D) unit image features and (B,) int64 ids -> (B, D) unit text features."""
        out = torch.empty_like(features)
        chunk = self.chunk or max(CHUNK_BYTES // self.prompts.bytes_per_image, 1)
        for begin in range(0, len(features), chunk):
            part = slice(begin, begin + chunk)
            tokens, schedule = random_start(
                ids[part],
                self.seed,
                self.prompts.num_tokens,
                self.prompts.width,
                self.templates,
                self.steps,
            )
            if self.start is not None:
                tokens = self.start(features[part])
            out[part] = invert(
                self.prompts,
                features[part],
                tokens,
                schedule,
                lr=self.lr,
                weight_decay=self.weight_decay,
            )[1]
        return out

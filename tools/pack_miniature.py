"""Packs a trained miniature, so that the wheel of the package takes less than 10 MB.

    python tools/pack_miniature.py some/clip.safetensors openood_interneg/vlm/miniature

Matrices are rounded to 11 bits a number (openood_interneg/vlm/packed_weights.py has the layout).
Half of CLIP's 49,408 tokens are in no text that this text tower was trained with: their embeddings
are as they were drawn and say nothing. They become zero. What is kept: the tokens of the packaged
words, class names and prompts, of single characters, and rows too long to be as they were drawn.
"""

from __future__ import annotations

import argparse
import shutil
import string
from collections.abc import Iterator
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

import openood_interneg
from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.vlm.packed_weights import HIGH, LOW, STEP, unpacked
from openood_interneg.vlm.prompts import KNOWN_PROMPT_SETS, prompt_set

TOKENS = "token_embedding.weight"
LARGE = 10_000  # numbers; smaller tensors stay whole, in fp16
BITS = 11
TRAINED = 0.28  # norm of a row; as drawn, 128 of N(0, 0.02^2), it is 0.226 +- 0.014


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="of tools/train_miniature.py")
    parser.add_argument("out", type=Path, help="folder for packed.safetensors and clip.json")
    args = parser.parse_args()
    write_packed(load_file(args.checkpoint), args.out / "packed.safetensors")
    if not (args.out / "clip.json").exists():
        shutil.copy(args.checkpoint.with_name("clip.json"), args.out)


def write_packed(state: dict[str, Tensor], path: Path) -> None:
    """Packs a state dict in OpenAI's layout into a file; says how far it moved."""
    state = {name: value.float() for name, value in state.items()}
    known = known_tokens() | (state[TOKENS].norm(dim=1) > TRAINED)
    state[TOKENS] = state[TOKENS] * known[:, None]
    parts = packed(state)
    save_file(parts, path)
    moved = max(
        ((value - state[name]).norm() / state[name].norm()).item()
        for name, value in unpacked(parts).items()
    )
    print(f"{int(known.sum())} of {len(known)} tokens kept; a matrix moved by at most {moved:.1e}")


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of each large matrix, and the other tensors in fp16."""
    largest = 2 ** (BITS - 1) - 1
    out = {}
    for name, value in state.items():
        if value.ndim < 2 or value.numel() < LARGE:
            out[name] = value.half().contiguous()
            continue
        rows = value.float().flatten(1)
        step = rows.abs().amax(dim=1) / largest
        codes = (rows / step.clamp_min(1e-12)[:, None]).round().short().view(value.shape)
        high = codes.div(8, rounding_mode="floor")
        out[name + HIGH] = high.char().contiguous()
        low = (codes - 8 * high).byte().view(-1, 2)
        out[name + LOW] = 8 * low[:, 0] + low[:, 1]
        out[name + STEP] = step
    return out


def texts() -> Iterator[str]:
    """Whatever the package itself says to the text tower."""
    corpus = load_corpus("wordnet")
    yield from (*corpus.nouns, *corpus.adjectives)
    yield from (*ID_KINDS, *NEAR_KINDS, *string.printable)
    yield from (kind for kinds in FAR_KINDS.values() for kind in kinds)
    yield from (prompt.format(" $ ") for name in KNOWN_PROMPT_SETS for prompt in prompt_set(name))
    package = Path(openood_interneg.__file__).parent
    for path in (
        *package.glob("data/class_names/*.txt"),
        *package.glob("detectors/data/eoe_*.txt"),
    ):
        yield path.read_text(encoding="utf-8")


def known_tokens() -> Tensor:
    """bool of shape (vocabulary,)."""
    tokenizer = SimpleTokenizer()
    known = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    known[tokenizer.all_special_ids] = True
    for text in texts():
        known[tokenizer.encode(text)] = True
    return known


if __name__ == "__main__":
    main()

"""Mining 70,000 words: ours against batches of 100 prompts over all 77 positions.

    python benchmarks/mining.py [--no-sized]

The words are the packaged WordNet list, the criterion is that of 1000 classes. Two towers:

* small (width 128, 4 layers), whole: ours encodes, mines and stores all words, cold and from the
  disk cache. Of the plain one every tenth batch is timed and multiplied by ten;
* ViT-B/16-sized, encoding alone: ours on every 70th word, the plain one on two batches of 100,
  both as seconds per word. All words would take the plain one the better part of an hour.

The multiplied figures are marked in the file. Memory is what the process grew by at its peak while
150,000 texts were mined for 1000 classes; the script fails where that is more than 300 MiB.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from common import (
    machine,
    medians,
    peak_bytes,
    random_backbone,
    random_features,
    resident_bytes,
    write,
)

from openood_interneg.data.store import Store
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.settings import NegativeSettings
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.tokenizers import byte_pairs

CLASSES, PLAIN_BATCH, SAMPLED = 1000, 100, 10
MANY, MEMORY_MIB = 150_000, 300


class IdImages:
    """One made-up image feature for each class, near its label: so that some words qualify."""

    labels = np.arange(CLASSES)

    def __init__(self, labels: torch.Tensor):
        noise = random_features(len(labels), labels.shape[1], labels.device)
        self.all = F.normalize(labels + 0.02 * noise, dim=-1)

    def features(self, indices: np.ndarray) -> torch.Tensor:
        """(len(indices), D) unit rows."""
        return self.all[torch.as_tensor(indices, device=self.all.device)]


def small_backbone(precision: str, device: torch.device) -> Backbone:
    """A CLIP whose text tower has width 128 and 4 layers."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=128,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=32),
        text_cfg=dict(width=128, heads=2, layers=4),
        quick_gelu=True,
    )
    return Backbone(
        model,
        byte_pairs(),
        Preprocess(32),
        name="small",
        device=device,
        precision=precision,
    )


@torch.no_grad()
def plain(backbone: Backbone, prompts: list[str], every: int = 1) -> torch.Tensor:
    """Text features in batches of 100 over all positions; only every so many batches."""
    parts = []
    for begin in range(0, len(prompts), PLAIN_BATCH * every):
        tokens = backbone.tokenizer(prompts[begin : begin + PLAIN_BATCH]).to(backbone.device)
        features = backbone._compute_model.encode_text(tokens)
        parts.append(F.normalize(features.float(), dim=-1))
    return torch.cat(parts)


def mine(backbone: Backbone, root: Path, corpus: str = "wordnet"):
    """Labels, proxies, corpus and mining, as `interneg mine` does it."""
    backbone.__dict__.pop("digest", None)  # a new process would hash the weights, too
    names = [f"class number {i}" for i in range(CLASSES)]
    settings = NegativeSettings(images_per_class=1, corpus=corpus)
    source = TextSpaceBuilder(backbone, names, None, Store(root))
    source.id_images = IdImages(source.labels(settings.label_prompt))
    mined = source.mined(settings)
    if not mined.words:
        raise SystemExit("no word qualifies: what was timed would not be mining")
    return mined


def mine_anew(backbone: Backbone) -> None:
    """As `mine`, with nothing stored yet."""
    with tempfile.TemporaryDirectory() as root:
        mine(backbone, Path(root))


def memory(backbone: Backbone, words: Sequence[str]) -> float:
    """MiB that the process grows by at its peak while MANY texts are mined."""
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "many.txt"
        rounds = -(-MANY // len(words))
        many = [f"{word} {i}" if i else word for i in range(rounds) for word in words][:MANY]
        corpus.write_text("\n".join(many), encoding="utf-8")
        del many
        before = resident_bytes()
        mine(backbone, Path(root), str(corpus))
    return max(peak_bytes() - before, 0) / 2**20


def main() -> None:
    """Both towers; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-sized", action="store_true", help="leave the large tower out")
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    device = pick_device(given.device)
    print(machine(device))
    corpus = load_corpus("wordnet")
    prompts = [f"The nice {w}." for w in corpus.nouns]
    prompts += [f"This is a {w} photo." for w in corpus.adjectives]
    print(f"{len(prompts)} prompts")

    backbone = small_backbone(given.precision, device)
    mine_anew(backbone)  # what libraries take at first use is not mining's
    growth = memory(backbone, corpus.nouns)
    print(f"memory beyond the model for {MANY} texts: {growth:.0f} MiB (limit {MEMORY_MIB})")
    if growth > MEMORY_MIB:
        raise SystemExit("mining takes more memory than it may")
    with tempfile.TemporaryDirectory() as root:
        passing = mine(backbone, Path(root)).passing
        print(f"qualified: {passing}")
        times = medians(
            {
                "ours, cold": partial(mine_anew, backbone),
                "77 positions, sampled": partial(plain, backbone, prompts, SAMPLED),
                "ours, cached": partial(mine, backbone, Path(root)),
            },
            given.repeats,
            warm_up=0,
        )
    batches = -(-len(prompts) // PLAIN_BATCH)
    sampled = -(-batches // SAMPLED)
    times["77 positions"] = times.pop("77 positions, sampled") * batches / sampled
    ratio = times["77 positions"] / times["ours, cold"]
    cached = times["77 positions"] / times["ours, cached"]
    for name, seconds in times.items():
        print(f"small tower, {name:14} {seconds:8.2f} s")
    print(f"cold {ratio:.1f} x (target 6), cached {cached:.0f} x (target 100)", flush=True)
    large = None
    if not given.no_sized:
        sized = random_backbone("ViT-B/16", given.precision, device, image_tower=False)
        few, two = prompts[::70], prompts[:: len(prompts) // (2 * PLAIN_BATCH)][: 2 * PLAIN_BATCH]
        pair = medians(
            {
                "ours": partial(sized.encode_text, few),
                "77 positions": partial(plain, sized, two),
            },
            given.repeats,
        )
        per_word = {
            "ours": pair["ours"] / len(few),
            "77 positions": pair["77 positions"] / len(two),
        }
        large = {
            "tower": "ViT-B/16-sized",
            "seconds_per_word": per_word,
            "ratio": round(per_word["77 positions"] / per_word["ours"], 2),
            "sampled": {"ours": len(few), "77 positions": len(two)},
        }
        print(f"ViT-B/16-sized, seconds per word: {per_word}; ratio {large['ratio']}")
    if not given.no_write:
        write(
            "mining",
            times,
            ratio,
            device=device,
            ratio_cached=round(cached, 1),
            precision=given.precision,
            tower="width 128, 4 layers, embedding 128",
            prompts=len(prompts),
            classes=CLASSES,
            passing=passing,
            extrapolated=f"77 positions: every {SAMPLED}th batch timed, times {SAMPLED}",
            memory_mib={"texts": MANY, "classes": CLASSES, "grown": round(growth, 1)},
            sized=large,
        )


if __name__ == "__main__":
    main()

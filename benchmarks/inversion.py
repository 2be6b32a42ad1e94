"""Modality inversion: ours against a plain implementation over all 77 positions.

    python benchmarks/inversion.py [--device cuda] [--quick]

The plain one does what the authors' code does: in every step the prompts are tokenised anew and
run through all positions of the model's own text tower, and autograd finds the gradient. Its
weights are frozen and it runs at the same precision as ours.

Inverting takes S = 10 steps. Of the plain one a single step is timed, five times, and multiplied
by S; its 256 images run in eight chunks of 32 (all at once would need some 8 GB), of which one is
timed. So its rows of batch 256 are eight times those of batch 32. Ours is timed whole.

Beside batch 1 stands what merely reading the tower's weights takes, once on the way there and once
on the way back in every step: no implementation that reads them can be faster.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from common import TOWERS, machine, medians, random_backbone, random_features, write

from openood_interneg.negatives.inversion import LiveInverter, random_start
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.prompts import prompt_set

STEPS = 10
CHUNK = 32  # of the plain implementation
TARGETS = {"photo": 20, "imagenet80": 8}
LINEAR = ("qkv", "out", "fc", "proj")


class PlainInversion:
    """Full length, every step, prompts tokenised anew."""

    def __init__(self, backbone: Backbone, templates: tuple[str, ...]):
        self.backbone, self.templates = backbone, templates
        self.placeholder = int(backbone.tokenizer(["$"])[0, 1])

    def embed(self, index: torch.Tensor, pseudo: torch.Tensor) -> torch.Tensor:
        """(B,) templates, (B, 1, width) tokens -> (B, D) unit text features."""
        model = self.backbone._compute_model  # the same weights, in the same precision
        prompts = [self.templates[i].replace("{}", " $ ") for i in index.tolist()]
        tokens = self.backbone.tokenizer(prompts).to(pseudo.device)
        x = model.token_embedding(tokens)
        hole = (tokens == self.placeholder)[:, :, None]
        x = torch.where(hole, pseudo.to(x.dtype), x) + model.positional_embedding
        x = model.transformer(x, attn_mask=model.attn_mask)
        x = model.ln_final(x)
        x = x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
        return F.normalize(x.float(), dim=-1)

    def run(self, features: torch.Tensor, tokens: torch.Tensor, schedule: torch.Tensor):
        """The optimisation of Algorithm 2; tokens (B, 1, width) after the schedule's steps."""
        tokens = tokens.to(features.device).requires_grad_(True)
        optimizer = torch.optim.AdamW([tokens], lr=2e-2, weight_decay=0.01)
        for index in schedule:
            loss = (1 - (self.embed(index, tokens) * features).sum(dim=1)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return tokens.detach()


def inverter(backbone: Backbone, templates: tuple[str, ...]) -> LiveInverter:
    """Ours."""
    return LiveInverter(backbone.pseudo_prompts(templates, 1), len(templates), steps=STEPS)


def difference(backbone: Backbone, templates: tuple[str, ...]) -> float:
    """Relative difference of the two implementations' text features for the same tokens."""
    width = backbone.text_tower.width
    tokens, schedule = random_start(range(8), 0, 1, width, len(templates), 1)
    tokens = tokens.to(backbone.device)
    with torch.no_grad():
        ours = backbone.pseudo_prompts(templates, 1).embed(schedule[0], tokens)
        plain = PlainInversion(backbone, templates).embed(schedule[0], tokens)
    return float((ours - plain).norm() / plain.norm())


def reading(backbone: Backbone, repeats: int) -> float:
    """Seconds of reading all weights of the layers 2 S + 1 times, and nothing else."""
    linear = [block.__dict__[n] for block in backbone.text_tower.blocks for n in LINEAR]
    weights = torch.cat([weight.flatten() for weight, _ in linear])
    # A product with one vector reads every weight once and writes next to nothing.
    matrix, vector = weights[: len(weights) // 512 * 512].view(-1, 512), weights.new_ones(512)
    return medians({"read": partial(torch.mv, matrix, vector)}, repeats)["read"] * (2 * STEPS + 1)


def measure(name: str, precision: str, device: torch.device, repeats: int) -> list[dict]:
    """Rows of one tower at one precision."""
    backbone = random_backbone(name, precision, device, image_tower=False)
    floor = reading(backbone, repeats)
    print(f"{name} {precision}: reading the weights {2 * STEPS + 1} times takes {floor:.3f} s")
    rows = []
    for label in ("photo", "imagenet80"):
        templates = prompt_set(label)
        live, plain = inverter(backbone, templates), PlainInversion(backbone, templates)
        print(
            f"{name} {precision} {label}: relative difference {difference(backbone, templates):.1e}"
        )
        slow = {}
        for batch in (1, 32, 256):
            features = random_features(batch, backbone.embed_dim, device)
            ids = torch.arange(batch)
            variants = {"ours": partial(live, features, ids)}
            if batch <= CHUNK:
                drawn = random_start(ids, 0, 1, backbone.text_tower.width, len(templates), 1)
                variants["full length"] = partial(plain.run, features, *drawn)
            times = medians(variants, repeats)
            if batch <= CHUNK:
                slow[batch] = times["full length"] * STEPS
            else:
                slow[batch] = slow[CHUNK] * (batch // CHUNK)
            row = {
                "tower": name,
                "precision": precision,
                "templates": label,
                "batch": batch,
                "variants": {"full length": slow[batch], "ours": times["ours"]},
                "ratio": slow[batch] / times["ours"],
                "target": TARGETS[label],
            }
            if batch == 1:
                row["reading_the_weights"] = floor
            rows.append(row)
            print(
                f"{name:9} {precision} {label:10} batch {batch:3}: "
                f"full length {slow[batch]:8.3f} s, ours {times['ours']:7.3f} s "
                f"({times['ours'] / batch * 1e3:7.2f} ms an image), "
                f"ratio {row['ratio']:6.1f} (target {row['target']})",
                flush=True,
            )
    return rows


def main() -> None:
    """Measures all towers, precisions, templates and batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--towers", default=",".join(TOWERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="ViT-B/16 only, one repeat")
    given = parser.parse_args()
    device = pick_device(given.device)
    towers = ["ViT-B/16"] if given.quick else given.towers.split(",")
    print(machine(device))
    rows = []
    for name in towers:
        for precision in given.precisions.split(","):
            rows += measure(name, precision, device, 1 if given.quick else given.repeats)
    for row in rows:  # what bf16 adds, ours against ours
        if row["precision"] == "bf16":
            same = [
                r
                for r in rows
                if r["precision"] == "fp32"
                and all(r[k] == row[k] for k in ("tower", "templates", "batch"))
            ]
            if same:
                row["gain_over_fp32"] = same[0]["variants"]["ours"] / row["variants"]["ours"]
    for row in rows:
        row["ratio"] = round(row["ratio"], 2)
    head = next((r for r in rows if r["batch"] == 32), rows[0])
    if not given.quick:
        write(
            "inversion",
            head["variants"],
            head["ratio"],
            device=device,
            headline="ViT-B/16 text tower, fp32, photo, batch 32, 10 steps",
            note="full length: one step timed, times 10; batch 256: 8 chunks of 32, one timed",
            cases=rows,
        )


if __name__ == "__main__":
    main()

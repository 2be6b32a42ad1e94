"""InterNeg's cost per image over bare image encoding, by the share of images that are gated.

    python benchmarks/overhead.py [--precisions fp32,bf16] [--device cuda]

ViT-B/16 with random weights, C = 1000, M = K = 2000, batches of 256, a full bank. The features are
made so that exactly the wanted share is gated; everything that the detector does with them is
timed: scoring, inversion (10 steps), the bank, scoring again. Encoding is timed on 32 images.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from common import machine, medians, random_backbone, write

from openood_interneg.cli.cost_measure import BATCH, CAPACITY, CLASSES, NEGATIVES, FullBank
from openood_interneg.cli.cost_model import SHARES
from openood_interneg.negatives.inversion import LiveInverter
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.prompts import prompt_set

ENCODED = 32
TARGETS = {
    ("fp32", "photo"): (0.02, 0.05, 0.15, 0.25),
    ("fp32", "imagenet80"): (0.02, 0.08, 0.3, 0.6),
    ("bf16", "photo"): (None, None, None, 0.35),
}


def measure(precision: str, device: torch.device, repeats: int) -> tuple[float, list[dict]]:
    """Seconds of encoding an image, and the rows of the table."""
    backbone = random_backbone("ViT-B/16", precision, device)
    pixels = torch.randn(ENCODED, 3, 224, 224)
    encoding = medians({"encode": partial(backbone.encode_image, pixels)}, repeats)["encode"]
    encoding /= ENCODED
    print(f"{precision}: encoding {encoding * 1e3:.2f} ms an image")
    rows = []
    for label in ("photo", "imagenet80"):
        templates = prompt_set(label)
        live = LiveInverter(backbone.pseudo_prompts(templates, 1), len(templates))
        stream = FullBank(backbone.embed_dim, backbone.device, live)
        targets = TARGETS.get((precision, label), (None,) * 4)
        for share, target in zip(SHARES, targets, strict=True):
            run = partial(stream.step, stream.batch(share), round(BATCH * share))
            seconds = medians({"step": run}, repeats)["step"] / BATCH
            rows.append(
                {
                    "precision": precision,
                    "templates": label,
                    "gated": share,
                    "encode_seconds": encoding,
                    "interneg_seconds": seconds,
                    "overhead": round(seconds / encoding, 4),
                    "target": target,
                }
            )
            wanted = "" if target is None else f" (target {target})"
            print(
                f"{precision} {label:10} {share:4.0%} gated: {seconds * 1e3:7.3f} ms an image, "
                f"{seconds / encoding:.3f} of the encoding{wanted}",
                flush=True,
            )
    return encoding, rows


def main() -> None:
    """The table at each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    device = pick_device(given.device)
    print(machine(device))
    rows, encodings = [], {}
    with torch.no_grad():
        for precision in given.precisions.split(","):
            encodings[precision], more = measure(precision, device, given.repeats)
            rows += more
    if not given.no_write:
        head = next(r for r in rows if r["templates"] == "photo" and r["gated"] == 0.1)
        write(
            "overhead",
            {"encode": head["encode_seconds"], "InterNeg": head["interneg_seconds"]},
            head["overhead"],
            device=device,
            headline=f"ViT-B/16, {head['precision']}, photo, 10 % gated: InterNeg over encoding",
            sizes={"C": CLASSES, "M": NEGATIVES, "K": CAPACITY, "batch": BATCH},
            encoding=encodings,
            cases=rows,
        )


if __name__ == "__main__":
    main()

"""Trains the CLIP of openood_interneg/vlm/miniature, which ships as `packed.safetensors`.

    python tools/train_miniature.py --text-from some/clip.safetensors --out some/folder

The text tower is that of an existing CLIP checkpoint (OpenAI's state-dict layout, with its sizes in
a `clip.json` in the same folder) and stays frozen. A small ModifiedResNet is trained from scratch
on drawings, to agree with the text features of "The nice star.", "a photo of a star." and so on:
cross-entropy over the kinds, with cosines times the checkpoint's own logit scale.

What the image tower sees: the ten ID kinds and the near-OOD kinds except `HELD_OUT_KINDS`, for
a large CLIP too has seen far more than the ID classes of a benchmark. What it never sees: the
twelve held-out near kinds, and all textures, letters and noise. The training pool has a random
stream of its own (`world.image_rng`), so it shares no image with a benchmark of whatever seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import PIL
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from pack_miniature import write_packed
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from openood_interneg.demo.world import (
    FAR_KINDS,
    HELD_OUT_KINDS,
    ID_KINDS,
    NEAR_KINDS,
    draw,
    image_rng,
)

SEEN_KINDS = ID_KINDS + tuple(kind for kind in NEAR_KINDS if kind not in HELD_OUT_KINDS)
EVALUATION_TEMPLATE = "The nice {}."
TEMPLATES = (
    EVALUATION_TEMPLATE,
    "This is a {} photo.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a drawing of a {}.",
    "a picture of one {}.",
    "a blurry photo of a {}.",
    "a small {}.",
    "itap of a {}.",
    "{}",
)
VISION = {"image_size": 64, "layers": [1, 2, 2, 1], "width": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-from", type=Path, required=True, help="a CLIP checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new checkpoint")
    parser.add_argument("--pool", type=int, default=36_000, help="training images")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    # One by default: on cores shared with other work, two threads that wait for each other lose.
    parser.add_argument("--workers", type=int, default=1, help="drawing processes, torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.workers)
    args.out.mkdir(parents=True, exist_ok=True)

    with (args.out / "TRAINING.txt").open("w", encoding="utf-8") as log:

        def say(text: str) -> None:
            print(text, flush=True)
            print(text, file=log, flush=True)

        run(args, say)


def run(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    started = time.time()
    say(f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}")
    say(f"open_clip {open_clip.__version__}, pillow {PIL.__version__}, {args.workers} thread(s)")
    say(f"pool {args.pool}, epochs {args.epochs}, batch {args.batch}, lr {args.lr}")
    say(f"{len(SEEN_KINDS)} kinds seen in training, never seen: {', '.join(HELD_OUT_KINDS)}")

    config = json.loads((args.text_from.parent / "clip.json").read_text(encoding="utf-8"))
    config["vision_cfg"] = VISION
    # The one use of the global generator: open_clip draws its first weights from it.
    torch.manual_seed(args.seed)
    model = build(config)
    text_state = {
        name: value.float()
        for name, value in load_file(args.text_from).items()
        if not name.startswith("visual.")
    }
    missing = model.load_state_dict(text_state, strict=False).missing_keys
    assert all(name.startswith("visual.") for name in missing), missing
    scale = model.logit_scale.exp().item()
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.visual)]
    say(f"{sizes[0]:.2f} M parameters, image tower {sizes[1]:.2f} M; logit scale {scale:.1f}")

    labels = torch.arange(args.pool) % len(SEEN_KINDS)
    kinds = [SEEN_KINDS[i] for i in labels.tolist()]
    images = draw_all(kinds, "pool", args.seed, args.workers)
    probe_kinds = [ID_KINDS[i % 10] for i in range(1000)]
    probe = draw_all(probe_kinds, "probe", args.seed, args.workers)
    probe_labels = torch.tensor([ID_KINDS.index(kind) for kind in probe_kinds])
    say(f"{time.time() - started:.0f} s for drawing {args.pool} training images, 1000 for probing")

    texts = torch.stack([text_features(model, SEEN_KINDS, template) for template in TEMPLATES])
    id_texts = text_features(model, ID_KINDS, EVALUATION_TEMPLATE)
    tower = model.visual.to(memory_format=torch.channels_last).train()
    for name, weight in tower.named_parameters():
        # open_clip starts these at zero, which costs epochs that a short training does not have.
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(weight)
    decayed = [p for p in tower.parameters() if p.ndim > 1]
    others = [p for p in tower.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others}],
        lr=args.lr,
        weight_decay=0.0,
    )
    steps_per_epoch = args.pool // args.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, args.lr, total_steps=args.epochs * steps_per_epoch, pct_start=0.15
    )
    chance = torch.Generator().manual_seed(args.seed)

    for epoch in range(args.epochs):
        order = torch.randperm(args.pool, generator=chance)
        total = 0.0
        for step in range(steps_per_epoch):
            rows = order[step * args.batch : (step + 1) * args.batch]
            template = int(torch.randint(len(TEMPLATES), (), generator=chance))
            x = prepare(jitter(images[rows], chance), config)
            # bf16 and channels_last together: two to three times faster than float32 on this tower.
            with torch.autocast("cpu", torch.bfloat16):
                features = tower(x)
            cosines = F.normalize(features.float(), dim=-1) @ texts[template].T
            loss = F.cross_entropy(scale * cosines, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        correct = (encode(model, probe, config) @ id_texts.T).argmax(1) == probe_labels
        say(
            f"epoch {epoch + 1:2d}  loss {total / steps_per_epoch:.3f}  "
            f"ID zero-shot {100 * correct.float().mean():.1f} %  {time.time() - started:.0f} s"
        )

    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    # Counters of the batch norms, which OpenAI's layout has not.
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    save_file(state, args.out / "clip.safetensors")
    (args.out / "clip.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    megabytes = (args.out / "clip.safetensors").stat().st_size / 1e6
    say(f"saved {megabytes:.1f} MB after {time.time() - started:.0f} s")
    write_packed(state, args.out / "packed.safetensors")
    report(args, config, say)


def build(config: dict) -> CLIP:
    """An open_clip model of the sizes in `clip.json`, untrained."""
    return CLIP(
        config["embed_dim"],
        config["vision_cfg"],
        config["text_cfg"],
        quick_gelu=config["quick_gelu"],
    ).eval()


def draw_all(kinds: list[str], stream: str, seed: int, workers: int) -> torch.Tensor:
    """Draw image i as kinds[i]. Returns uint8 of shape (n, 3, 64, 64)."""
    with ProcessPoolExecutor(workers) as pool:
        numbers = range(len(kinds))
        parts = list(pool.map(partial(_pixels, stream, seed), kinds, numbers, chunksize=250))
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).contiguous()


def _pixels(stream: str, seed: int, kind: str, index: int) -> np.ndarray:
    return np.asarray(draw(kind, image_rng(seed, stream, index)))


def jitter(images: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Shift a batch by up to 4 pixels and mirror it half of the time: the pool is finite and would
    be learnt by heart."""
    dx, dy, mirror = torch.randint(0, 9, (3,), generator=chance).tolist()
    images = F.pad(images, (4, 4, 4, 4), mode="replicate")[..., dy : dy + 64, dx : dx + 64]
    return images.flip(-1) if mirror % 2 else images


def prepare(images: torch.Tensor, config: dict) -> torch.Tensor:
    """uint8 (n, 3, 64, 64) to normalised float32."""
    mean = torch.tensor(config["preprocess"]["mean"]).view(3, 1, 1)
    std = torch.tensor(config["preprocess"]["std"]).view(3, 1, 1)
    x = (images.float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def text_features(model: CLIP, kinds: tuple[str, ...], template: str) -> torch.Tensor:
    """Unit rows, float32 of shape (kinds, embed_dim)."""
    tokens = open_clip.tokenize([template.format(kind) for kind in kinds])
    return F.normalize(model.encode_text(tokens), dim=-1)


@torch.no_grad()
def encode(model: CLIP, images: torch.Tensor, config: dict) -> torch.Tensor:
    """Unit rows, float32 of shape (n, embed_dim); in float32, as the benchmark encodes."""
    was_training = model.visual.training
    model.visual.eval()
    parts = [model.visual(prepare(part, config)) for part in images.split(250)]
    model.visual.train(was_training)
    return F.normalize(torch.cat(parts), dim=-1)


def report(args: argparse.Namespace, config: dict, say: Callable[[str], None]) -> None:
    """Accuracy and MCM's AUROC of the checkpoint as saved, on the benchmark of seed 0."""
    model = build(config)
    state = load_file(args.out / "clip.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    texts = text_features(model, ID_KINDS, EVALUATION_TEMPLATE)

    def cosines(stream: str, kinds: list[str]) -> torch.Tensor:
        return encode(model, draw_all(kinds, stream, 0, args.workers), config) @ texts.T

    id_kinds = [kind for kind in ID_KINDS for _ in range(100)]
    id_cosines = cosines("test", id_kinds)
    correct = id_cosines.argmax(1) == torch.tensor([ID_KINDS.index(kind) for kind in id_kinds])
    per_kind = correct.float().view(10, 100).mean(1)
    say(f"benchmark, ID zero-shot accuracy {100 * correct.float().mean():.1f} %")
    say("  " + ", ".join(f"{k} {100 * a:.0f}" for k, a in zip(ID_KINDS, per_kind, strict=True)))

    def auroc(ood_cosines: torch.Tensor) -> float:
        score = torch.cat([id_cosines, ood_cosines]).softmax(1).amax(1)
        truth = [1] * len(id_cosines) + [0] * len(ood_cosines)
        return 100 * roc_auc_score(truth, score.numpy())

    near_kinds = [NEAR_KINDS[i % len(NEAR_KINDS)] for i in range(600)]
    near = cosines("othershapes", near_kinds)
    new = torch.tensor([kind in HELD_OUT_KINDS for kind in near_kinds])
    say("MCM (maximum softmax of raw cosines, tau 1), AUROC in percent, ID = positive")
    say(
        f"  othershapes {auroc(near):.1f} (kinds never seen {auroc(near[new]):.1f}, "
        f"seen {auroc(near[~new]):.1f})"
    )
    for name, far_kinds in FAR_KINDS.items():
        far = cosines(name, [far_kinds[i % len(far_kinds)] for i in range(300)])
        say(f"  {name} {auroc(far):.1f}")


if __name__ == "__main__":
    main()

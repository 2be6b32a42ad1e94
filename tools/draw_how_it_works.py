"""Draws docs/images/how_it_works.png, the picture of the README: what a score is made of.

    python tools/draw_how_it_works.py        (half a minute; nothing is downloaded)

The miniature, its labels and the negative texts that InterNeg mines for them, no bank. An ID and a
near-OOD image are shown with the texts that take most of the softmax; beside them, the scores
(the labels' share) of 300 images of either kind. The two images are those whose scores are the
medians of their kind.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from openood_interneg import OODDetector
from openood_interneg.demo import ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.detectors.scoring import logits

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "how_it_works.png"
GREEN, ORANGE, RED = "#2a7f62", "#d98a29", "#b3372f"
EACH = 300  # images of each kind
SHOWN = 4  # texts of an image


def pictures() -> list:
    """Drawn test images, the ID ones first."""
    return [
        draw(kinds[i % len(kinds)], image_rng(0, stream, 10_000 + i))
        for kinds, stream in ((ID_KINDS, "test"), (NEAR_KINDS, "othershapes"))
        for i in range(EACH)
    ]


def main() -> None:
    train = {kind: [draw(kind, image_rng(0, "train", i)) for i in range(16)] for kind in ID_KINDS}
    detector = OODDetector("miniature", method="interneg_negatives_only", preprocess="clip")
    detector.fit(ID_KINDS, train)
    images, space = pictures(), detector.space
    transform = detector.preprocess.transform()
    features = detector.backbone.encode_image(torch.stack([transform(p) for p in images]))
    texts = torch.cat([space.labels, space.negatives])
    shares = logits(features, texts, space.logit_scale).softmax(dim=1).numpy()
    names = [*space.class_names, *space.negative_words]
    scores = shares[:, : len(space.labels)].sum(axis=1)
    matplotlib.rcParams.update({"font.size": 12, "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(12, 4.3), dpi=110, facecolor="white")
    grid = figure.add_gridspec(
        2, 3, width_ratios=[0.5, 1.25, 1.3], wspace=0.5, hspace=0.42,
        left=0.015, right=0.98, top=0.85, bottom=0.13,
    )  # fmt: skip
    for row, kind in enumerate(("ID image", "OOD image")):
        place = row * EACH + int(np.argsort(scores[row * EACH :][:EACH])[EACH // 2])
        shown = figure.add_subplot(grid[row, 0])
        shown.imshow(images[place], interpolation="nearest")
        shown.set_title(kind, fontsize=13, fontweight="bold")
        shown.axis("off")
        bars = figure.add_subplot(grid[row, 1])
        draw_texts(bars, shares[place], names, len(space.labels), scores[place])
    figure.text(0.18, 0.93, "shares of the texts:", fontsize=12)
    figure.text(0.333, 0.93, "ID labels", fontsize=12, color=GREEN, fontweight="bold")
    figure.text(0.415, 0.93, "negative texts", fontsize=12, color=ORANGE, fontweight="bold")
    draw_histogram(figure.add_subplot(grid[:, 2]), scores)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, metadata={"Software": None})
    print(f"written: {OUT.name}, {OUT.stat().st_size / 1024:.0f} KiB")


def draw_texts(axes: Axes, share: np.ndarray, names: list[str], labels: int, score: float) -> None:
    """The texts with the largest shares; labels come first in `share`."""
    top = np.argsort(share)[::-1][:SHOWN]
    colours = [GREEN if i < labels else ORANGE for i in top]
    axes.barh(range(SHOWN), share[top], color=colours, height=0.7)
    axes.set_yticks(range(SHOWN), [names[i] for i in top])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xticks=[])
    axes.tick_params(length=0)
    for y, i in enumerate(top):
        shown = f"{share[i]:.0%}" if share[i] >= 0.005 else "< 1%"
        axes.text(share[i] + 0.015, y, shown, va="center", fontsize=11)
    axes.text(
        1.0, SHOWN - 1, f"score {score:.2f}", ha="right", va="center", fontweight="bold"
    )  # all labels together
    for side in axes.spines.values():
        side.set_visible(False)


def draw_histogram(axes: Axes, scores: np.ndarray) -> None:
    """Scores of ID and OOD images."""
    for part, name, colour in ((scores[:EACH], "ID", GREEN), (scores[EACH:], "OOD", RED)):
        axes.hist(part, np.linspace(0, 1, 26), color=colour, alpha=0.65, label=name)
    axes.set_title("score = what the ID labels have together", fontsize=12, pad=12)
    axes.set_xlabel(f"score of {EACH} ID and {EACH} OOD images (high = ID)")
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, loc="upper center", ncols=2, fontsize=13)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main()

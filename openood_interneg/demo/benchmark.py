"""The miniature benchmark on disk: drawings of `world`, in OpenOOD's folder layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng

# Bump when drawings change, so that a benchmark written by an older version is not reused.
DRAWING_VERSION = 1
MARKER, IMAGES, LISTS = "miniature.json", "images_classic", "benchmark_imglist"


def write_benchmark(
    root: Path,
    *,
    seed: int = 0,
    train_per_class: int = 20,
    test_per_class: int = 100,
    near: int = 600,
    far: int = 300,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the benchmark below `root`; return at once where the same one is already there.

    Images go to `images_classic/<set>/<split>/<class>/<nnnn>.png`, lists of `path label` to
    `benchmark_imglist/miniature/*.txt`, the label being the place in `ID_KINDS`, or -1 for OOD.

    Args:
        root: the benchmark's own folder. It appears complete or not at all. An older benchmark
            of this module is replaced; a folder with anything else in it is refused.
        seed: the same seed gives the same bytes.
        train_per_class, test_per_class: images of each of the ten ID kinds.
        near: images in the set `othershapes`, spread evenly over `NEAR_KINDS`.
        far: images in each of the three far sets, spread evenly over its kinds.
        progress: called with (images written, images in all) after each image.

    Raises:
        FileExistsError: `root` holds files that this function did not write.
    """
    root = Path(root)
    parameters = {
        "drawing_version": DRAWING_VERSION,
        "seed": seed,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "near": near,
        "far": far,
    }
    if _is_complete(root, parameters):
        return
    present = {path.name for path in root.iterdir()} if root.exists() else set()
    if present and (MARKER not in present or present - {MARKER, IMAGES, LISTS}):
        raise FileExistsError(f"{root} holds files that are not the miniature benchmark's")

    # list name -> (set folder, split folder, stream, kinds in order)
    sets = {
        "train_shapes": ("shapes", "train", "train", _each(ID_KINDS, train_per_class)),
        "test_shapes": ("shapes", "test", "test", _each(ID_KINDS, test_per_class)),
        "test_othershapes": ("othershapes", "test", "othershapes", _round_robin(NEAR_KINDS, near)),
    }
    for name, far_kinds in FAR_KINDS.items():
        sets[f"test_{name}"] = (name, "test", name, _round_robin(far_kinds, far))
    total, done = sum(len(kinds) for *_, kinds in sets.values()), 0

    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.with_name(f".{root.name}.{os.getpid()}.partial")
    outdated = building.with_suffix(".outdated")
    shutil.rmtree(building, ignore_errors=True)
    try:
        lists = building / LISTS / "miniature"
        lists.mkdir(parents=True)
        for list_name, (folder, split, stream, kinds) in sets.items():
            lines = []
            for index, kind in enumerate(kinds):
                relative = f"{folder}/{split}/{kind}/{index:04d}.png"
                path = building / IMAGES / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(kind, image_rng(seed, stream, index)).save(path)
                label = ID_KINDS.index(kind) if folder == "shapes" else -1
                lines.append(f"{relative} {label}\n")
                done += 1
                if progress is not None:
                    progress(done, total)
            (lists / f"{list_name}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
        (building / MARKER).write_text(json.dumps(parameters, indent=1) + "\n", encoding="utf-8")
        # Another process may have finished the same benchmark meanwhile: then that one stays.
        if not _is_complete(root, parameters):
            if root.exists():
                root.rename(outdated)
            building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(outdated, ignore_errors=True)


def _is_complete(root: Path, parameters: dict[str, int]) -> bool:
    marker = root / MARKER
    return marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == parameters


def _each(kinds: tuple[str, ...], count: int) -> list[str]:
    return [kind for kind in kinds for _ in range(count)]


def _round_robin(kinds: tuple[str, ...], count: int) -> list[str]:
    return [kinds[i % len(kinds)] for i in range(count)]

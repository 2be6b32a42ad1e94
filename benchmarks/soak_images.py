"""100,000 photographs through `interneg score -`: paths on standard input, files used again.

The resident memory of the command is sampled as its results arrive, and must stay within 5 % of
what it was after a tenth of the images. One file in `FILES` is damaged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from openood_interneg.demo.world import ID_KINDS, NEAR_KINDS, draw, image_rng

FILES = 100
SIZES = ((64, 64), (160, 120), (49, 151))  # pixels, in turn
WITHIN = 0.05
SAMPLES = 100


def soak_images(images: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Figures of one run of the command, and what is wrong; nothing where /proc is missing.

    Args:
        images: how many paths it gets.
        folder: for the files.
    """
    if not images:
        return {}, []
    if not Path("/proc/self/status").exists():
        print("images are left out: this system does not tell another process's memory")
        return {}, []
    paths = _photographs(folder)
    state = folder / "images.safetensors"
    command = [sys.executable, "-m", "openood_interneg.cli", "score", "-", "--quiet", "--no-cache"]
    command += ["--backbone", "miniature", "--id-images", str(folder / "id"), "--state", str(state)]
    command += ["--corpus", str(folder / "nouns.txt"), "--workers", "2"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        feeder = threading.Thread(target=_feed, args=(child.stdin, paths, images), daemon=True)
        feeder.start()
        sizes, failed, count, first = {}, 0, 0, 0.0
        for count, line in enumerate(child.stdout, 1):
            first = first or time.perf_counter()
            failed += "error" in json.loads(line)
            if count % max(images // SAMPLES, 1) == 0:
                sizes[count] = _resident_mib(child.pid)
                if count % max(images // 10, 1) == 0:
                    print(f"images {count}: {sizes[count]:.1f} MiB", flush=True)
        feeder.join()
    seconds = time.perf_counter() - first
    tenth = sizes[images // 10]
    later = [size for at, size in sizes.items() if at >= images // 10 and size]
    furthest = max(later, key=lambda size: abs(size - tenth))
    figures = {
        "images": count,
        "files": FILES,
        "unreadable": failed,
        "MiB after a tenth": tenth,
        "furthest MiB later": furthest,
        "change": round(furthest / tenth - 1, 4),
        "per second": round(images / seconds),
        "seconds before the first": round(first - begin, 1),
        "state KiB": round(state.stat().st_size / 2**10, 1),
        "MiB": {str(at): size for at, size in sizes.items() if at % max(images // 10, 1) == 0},
    }
    print("images", {k: v for k, v in figures.items() if k != "MiB"}, flush=True)
    wrong = []
    if child.returncode or count != images:
        wrong.append(f"images: code {child.returncode} and {count} results of {images}")
    if failed != len(range(FILES - 1, images, FILES)):
        wrong.append(f"images: {failed} unreadable ones")
    if abs(furthest / tenth - 1) > WITHIN:
        wrong.append(f"images: {tenth} MiB after a tenth, later {furthest}")
    return figures, wrong


def _photographs(folder: Path) -> list[bytes]:
    """Paths of the JPEGs, the last of which is cut off; writes ID images and a corpus, too."""
    (folder / "nouns.txt").write_text("noise\nstripe\ncheck\ndot\ntexture\nletter\nbird\nwhale\n")
    for kind in ID_KINDS:
        (folder / "id" / kind).mkdir(parents=True)
        for i in range(20):
            picture = draw(kind, image_rng(0, "train", i))
            picture.save(folder / "id" / kind / f"{i}.jpg", quality=95)
    kinds, paths = (*ID_KINDS, *NEAR_KINDS), []
    for i in range(FILES):
        picture = draw(kinds[i % len(kinds)], image_rng(0, "pool", i))
        path = folder / f"photograph {i}.jpg"
        picture.resize(SIZES[i % len(SIZES)]).save(path, quality=90)
        paths.append(os.fsencode(path))
    path.write_bytes(path.read_bytes()[:300])
    return paths


def _feed(pipe: IO[bytes], paths: list[bytes], images: int) -> None:
    try:
        with pipe:
            for i in range(images):
                pipe.write(paths[i % len(paths)] + b"\n")
    except BrokenPipeError:  # the command ended; its results tell
        pass


def _resident_mib(pid: int) -> float:
    """VmRSS; 0 where the process has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 2**10, 1)
    return 0.0

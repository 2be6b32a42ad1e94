"""Encoding in one process and in two: speed-up, and equality of what is written.

    python benchmarks/scaling.py [--images 256] [--processes 2]

A miniature benchmark is drawn and encoded by the command that a user would type, a fresh store
every time. One thread per process, so that two processes use two cores and one uses one. Each
time is the whole command's, start and loading of the model included: `encode only` leaves out
what the command takes when nothing is left to encode.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import machine, medians, write

from openood_interneg.data.store import read_tensors
from openood_interneg.demo.benchmark import write_benchmark

ROOT = Path(__file__).resolve().parent.parent


def encode(root: Path, cache: Path, processes: int) -> None:
    """The command, in so many processes."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    subprocess.run(
        [
            *(*launcher, "openood_interneg.cli", "encode", "--data-root", str(root / "data")),
            *("--backbone", "miniature", "--device", "cpu", "--encode-batch", "32", "--quiet"),
            *("--corpus", str(root / "words.txt"), "--images-per-class", "2"),
            *("--shard-size", "64", "--cache-dir", str(cache)),
        ],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        check=True,
    )


def encode_anew(root: Path, processes: int) -> Path:
    """As `encode`, into a fresh store, which is returned."""
    cache = Path(tempfile.mkdtemp(dir=root))
    encode(root, cache, processes)
    return cache


def contents(cache: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All shards of a store."""
    return {
        str(path.relative_to(cache)): read_tensors(path)[0]
        for path in sorted(cache.rglob("*.safetensors"))
    }


def main() -> None:
    """Times one process against several and compares their stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="in each of the five sets")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        per_class = -(-given.images // 10)
        sets = dict(test_per_class=per_class, near=given.images, far=given.images)
        write_benchmark(root / "data", train_per_class=2, **sets)
        words = [f"{a}{b}" for a in ("tree", "dog", "red", "sea") for b in range(500)]
        (root / "words.txt").write_text("\n".join(words), encoding="utf-8")
        full = encode_anew(root, 1)
        one, many = contents(full), contents(encode_anew(root, given.processes))
        equal = one.keys() == many.keys() and all(
            torch.equal(tensor, many[name][key])
            for name, tensors in one.items()
            for key, tensor in tensors.items()
        )
        print(f"{len(one)} shards; bit-identical: {equal}")
        names = {"1 process": 1, f"{given.processes} processes": given.processes}
        variants = {name: partial(encode_anew, root, n) for name, n in names.items()}
        empty = {
            f"{name}, nothing to do": partial(encode, root, full, n) for name, n in names.items()
        }
        times = medians(variants | empty, given.repeats, warm_up=0)
    work = {name: times[name] - times[f"{name}, nothing to do"] for name in names}
    ratio, net = (t["1 process"] / t[f"{given.processes} processes"] for t in (times, work))
    for name, seconds in times.items():
        print(f"{name:28} {seconds:7.2f} s")
    print(f"speed-up {ratio:.2f}; without start and loading {net:.2f}")
    if not given.no_write:
        write(
            "scaling",
            times,
            ratio,
            speed_up_encode_only=round(net, 3),
            encode_only={name: round(seconds, 3) for name, seconds in work.items()},
            bit_identical=equal,
            images=given.images * 5,
            threads_per_process=1,
            model="miniature",
        )


if __name__ == "__main__":
    main()

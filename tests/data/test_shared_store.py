"""What several processes write is what one writes, killed or not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openood_interneg.data.shared_store import DistContext, SharedStore
from openood_interneg.data.store import Store, read_tensors
from openood_interneg.demo.benchmark import write_benchmark

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_benchmark(root / "data", seed=1, train_per_class=4, test_per_class=4, near=20, far=12)
    words = "dog river engine cloud ladder red happy star mug theory".split()
    (root / "words.txt").write_text("\n".join(words), encoding="utf-8")
    return root


def command(world, cache, *args, processes=1):
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [
        *(*launcher, "openood_interneg.cli", "encode", "--data-root", str(world / "data")),
        *("--backbone", "miniature", "--corpus", str(world / "words.txt"), "--device", "cpu"),
        *("--images-per-class", "4", "--encode-batch", "4", "--shard-size", "8"),
        *("--cache-dir", str(cache), *args),
    ]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def encode(world, cache, *args, processes=1):
    done = subprocess.run(
        command(world, cache, *args, processes=processes),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def contents(cache, kinds=("features", "texts", "ranks", "mined")):
    """File -> tensors of a store."""
    files = [p for kind in kinds for p in sorted((cache / kind).glob("*/*.safetensors"))]
    return {str(p.relative_to(cache)): read_tensors(p)[0] for p in files}


def assert_equal(a, b):
    assert a.keys() == b.keys() and len(a) > 0
    for name, tensors in a.items():
        assert all(torch.equal(tensor, b[name][key]) for key, tensor in tensors.items()), name


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    cache = tmp_path_factory.mktemp("alone")
    encode(world, cache, "--invert", "--templates", "photo")
    return cache


def inversions(cache):
    rows = {}
    for tensors in contents(cache, ("inversions",)).values():
        for key, row in zip(tensors["keys"].tolist(), tensors["rows"], strict=True):
            rows[key] = row
    return rows


def test_two_processes_write_what_one_writes(world, alone, tmp_path):
    said = encode(world, tmp_path, "--invert", "--templates", "photo", processes=2)
    counts = [int(line.split()[-2]) for line in said.splitlines() if " encoded " in line]
    assert len(counts) == 2 and min(counts) > 0
    assert_equal(contents(alone), contents(tmp_path))
    manifests = [
        sorted(p.parent.name for p in c.glob("*/*/manifest.json")) for c in (alone, tmp_path)
    ]
    assert manifests[0] == manifests[1]
    one, two = inversions(alone), inversions(tmp_path)
    assert one.keys() == two.keys() and all(torch.equal(row, two[key]) for key, row in one.items())


def first_worker(launcher: int) -> int | None:
    """Process number of the first process that a launcher has started (Linux)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return next(map(int, children.read_text().split()), None)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_is_resumed(world, alone, tmp_path, processes):
    """Killed after the first shards; finished shards stay untouched, the rest is computed.

    Of two workers one is killed; its launcher gives up, and says so.
    """
    if processes > 1 and not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to find a worker")
    process = subprocess.Popen(
        command(world, tmp_path, processes=processes),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("features/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid if processes == 1 else first_worker(process.pid), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    # whatever the machine's speed, some work is left
    for path in sorted(tmp_path.glob("features/*/*.safetensors"))[2:]:
        path.unlink()
    for path in tmp_path.glob("*/*/manifest.json"):
        path.unlink()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("features/*/*.safetensors")}
    assert kept
    encode(world, tmp_path, processes=2)
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    assert_equal(contents(alone), contents(tmp_path))
    said = encode(world, tmp_path)
    assert "encoded 0 images" in said


def test_shares_cover_everything_once(tmp_path):
    contexts = [DistContext(rank, 3) for rank in range(3)]
    assert sorted(i for w in contexts for i in w.share(range(10))) == list(range(10))
    entry = SharedStore(tmp_path, DistContext()).entry("x", {"a": 1}, 10, 4)
    assert entry.folder == Store(tmp_path).entry("x", {"a": 1}, 10, 4).folder
    entry.fill(lambda shards: iter([{"v": torch.full((n, 1), n)} for n in (4, 4, 2)]))
    assert Store(tmp_path).entry("x", {"a": 1}, 10, 4).read_all()["v"].flatten().tolist() == (
        [4] * 8 + [2] * 2
    )

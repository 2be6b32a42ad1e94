"""A second `eval_ood` through OpenOOD's unmodified Evaluator, against the first.

    OPENOOD_SRC=... python benchmarks/plugin_store.py [--data FOLDER] [--repeats 5]

Benchmark `realbench10` with the small CLIP beside it where --data has it (by default
INTERNEG_SHARED/realbench), else the drawn one with the packaged miniature. Texts and inversions are
in the cache for both runs, so what the first has and the second has not is reading and encoding
images. Every run makes postprocessor and Evaluator anew; imports and weights are not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from common import machine, write

METHODS = ("msp", "mcm", "interneg")


def seconds(run: Callable[[], object]) -> float:
    """Wall seconds of a run, which prints nothing."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


def data(given: str | None, folder: Path) -> tuple[str, Path, str]:
    """Name of the benchmark, its data root, and the backbone."""
    shared = os.environ.get("INTERNEG_SHARED")
    root = Path(given) if given else Path(shared, "realbench") if shared else None
    if root is not None and root.is_dir():
        return "realbench10", root, str(root / "model" / "clip.safetensors")
    from openood_interneg.demo.benchmark import write_benchmark

    write_benchmark(folder / "data")
    return "miniature", folder / "data", "miniature"


def main() -> None:
    """First and second run of each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    if os.environ.get("OPENOOD_SRC"):
        sys.path.append(os.environ["OPENOOD_SRC"])
    from openood_interneg.plugin.device import redirect_cuda
    from openood_interneg.plugin.network import ClipZeroShot
    from openood_interneg.plugin.register import config_root, register

    register()  # before OpenOOD's own imports, some of which need packages that may be missing
    from openood.evaluation_api import Evaluator

    checkout = str(Path(sys.modules["openood"].__file__).parents[1] / "configs")
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder, redirect_cuda("cpu"):
        cache = Path(folder, "cache")
        os.environ["INTERNEG_CACHE"] = str(cache)
        name, root, backbone = data(given.data, Path(folder))
        net = ClipZeroShot.load(backbone, name)
        for method in given.methods.split(","):
            times: dict[str, list[float]] = {"first": [], "second": []}
            configs = checkout if method == "msp" else config_root()

            def run(method: str = method, configs: str = configs) -> None:
                evaluator = Evaluator(
                    net,
                    name,
                    data_root=str(root),
                    config_root=configs,
                    postprocessor_name=method,
                    batch_size=256,
                    num_workers=0,
                )
                evaluator.eval_ood(progress=False)

            for turn in range(1 + given.repeats):
                for which in times:
                    if which == "first":
                        shutil.rmtree(cache / "features", ignore_errors=True)
                    taken = seconds(run)
                    if turn:  # the turn before it fills the cache with texts and inversions
                        times[which].append(taken)
            first, second = (statistics.median(times[which]) for which in ("first", "second"))
            rows.append(
                {
                    "method": method,
                    "first_seconds": round(first, 3),
                    "second_seconds": round(second, 3),
                    "ratio": round(first / second, 2),
                }
            )
            print(
                f"{name}, {method}: first {first:.2f} s, second {second:.2f} s, "
                f"{first / second:.1f} times",
                flush=True,
            )
    if not given.no_write:
        head = rows[-1]
        write(
            "plugin_store",
            {"first run": head["first_seconds"], "second run": head["second_seconds"]},
            head["ratio"],
            headline=f"{name}, {head['method']}, OpenOOD's Evaluator: first eval_ood over second",
            cases=rows,
        )


if __name__ == "__main__":
    main()

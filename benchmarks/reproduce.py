"""`interneg reproduce` when everything is there: figures kept by their inputs, or drawn anew.

CPU seconds of the whole command, start-up included, on the drawn benchmark, a process per run.

    python benchmarks/reproduce.py
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, write

COMMAND = (sys.executable, "-m", "openood_interneg.cli", "reproduce")


def main() -> None:
    """Runs the command cold once, then warm with and without its figures, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="all")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        arguments = (*COMMAND, options.what, "--bench", "miniature", "--seeds", "0", "--quiet")
        arguments += ("--limit", str(options.limit), "--out", str(out))
        environment = os.environ | {"INTERNEG_CACHE": str(folder / "cache")}

        def seconds() -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        cold, report = seconds(), (out / "report.html").read_bytes()
        drawn, kept = [], []
        for _ in range(options.repeats):
            shutil.rmtree(out / "figures")
            drawn.append(seconds())
            kept.append(seconds())
            print(f"drawn anew {drawn[-1]:.1f} s, kept {kept[-1]:.1f} s", flush=True)
        if (out / "report.html").read_bytes() != report:
            raise SystemExit("a warm report is not the cold one")
        figures = len(list((out / "figures").glob("*.png")))
    variants = {"drawn anew": statistics.median(drawn), "kept": statistics.median(kept)}
    print({name: round(value, 1) for name, value in variants.items()}, f"cold {cold:.1f} s")
    if not options.no_write:
        ratio = variants["drawn anew"] / variants["kept"]
        of = {"experiments": options.what, "limit": options.limit, "figures": figures}
        write("reproduce", variants, ratio, unit="CPU s", cold=round(cold, 1), **of)


if __name__ == "__main__":
    main()

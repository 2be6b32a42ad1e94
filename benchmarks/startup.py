"""What a command costs before and beside its work: CPU seconds, and how many of them are imports.

    python benchmarks/startup.py [--repeats 5] [--with transformers]

Every command runs in processes of its own, the commands taking turns, on ten drawn photographs
with a warm store and the miniature's CLIP. "imports" are those of a further run under
`-X importtime`; a ratio is to `python -c "import torch"` (commands without torch: to
`import numpy`). "plain imports" runs a command without `cli/bare_packages.py`. A package named by
`--with` may be imported; transformers is kept out otherwise, as open_clip imports it wherever it
is installed, and an installation of ours does not bring it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write

from openood_interneg.demo.benchmark import write_benchmark

RUN = (
    "import sys; {hide}; from openood_interneg import cli; {plain}; "
    "sys.argv[0] = 'interneg'; cli.main()"
)
TARGET = 3.0  # CPU seconds of a warm command on ten photographs


def folders(place: Path) -> dict[str, list[str]]:
    """The commands by name; draws ten images and their ID images."""
    write_benchmark(place / "miniature")
    files = sorted((place / "miniature").rglob("*.png"))
    some = place / "ten"
    some.mkdir()
    for number, file in enumerate(files[:: max(len(files) // 10, 1)][:10]):
        (some / f"{number}.png").write_bytes(file.read_bytes())
    (place / "classes.txt").write_text("star\nheart\ncircle\n")
    known = place / "known"
    for number, file in enumerate(files[:12]):
        (known / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        (known / "abc"[number % 3] / f"{number}.png").write_bytes(file.read_bytes())
    model = ["--backbone", "miniature", "--quiet"]
    texts = ["--classes", str(place / "classes.txt")]
    score = ["score", str(some), *model]
    return {
        "--version": ["--version"],
        "--help": ["--help"],
        "methods": ["methods"],
        "score, neglabel": [*score, *texts, "--method", "neglabel"],
        "score, rationeg": [*score, "--id-images", str(known)],
        "eval on folders": [
            *("eval", "--id", str(known), "--ood", str(some), *model),
            *("--methods", "mcm,neglabel"),
        ],
    }


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of a process and what it started."""
    before = os.times()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{command[-6:]} failed:\n{done.stderr[-2000:]}")
    return sum(after[2:4]) - sum(before[2:4])


def import_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Sum over all modules of the time that `-X importtime` prints for each alone."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    lines = subprocess.run(traced, env=environment, capture_output=True, text=True).stderr
    found = [line.split(":")[1].split("|")[0] for line in lines.splitlines() if "|" in line]
    return sum(int(text) for text in found if text.strip().isdigit()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--with", dest="kept", default="", metavar="PACKAGE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    hide = "pass" if options.kept == "transformers" else "sys.modules['transformers'] = None"
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"INTERNEG_CACHE": f"{place}/cache", "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or our modules are compiled every time
        runs = {f"import {name}": [*python, f"import {name}"] for name in ("numpy", "torch")}
        for name, arguments in folders(Path(place)).items():
            runs[name] = [*python, RUN.format(hide=hide, plain="pass"), *arguments]
            if arguments[0] in ("score", "eval"):
                plain = RUN.format(hide=hide, plain="cli.defer_inits = lambda: None")
                runs[f"{name}, plain imports"] = [*python, plain, *arguments]
        for command in runs.values():  # fills the store and the file cache
            cpu_seconds(command, environment)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, command in runs.items():
                times[name].append(cpu_seconds(command, environment))
        imports = {name: import_seconds(command, environment) for name, command in runs.items()}
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rows = {}
    print(f"{'':34}{'CPU s':>7}{'imports':>9}{'ratio':>7}")
    for name, value in seconds.items():
        light = value < seconds["import torch"] / 2
        base = "import numpy" if light else "import torch"
        rows[name] = {"imports": round(imports[name], 3), "ratio": round(value / seconds[base], 2)}
        print(f"{name:34}{value:7.2f}{imports[name]:9.2f}{rows[name]['ratio']:7.2f} x {base}")
    warm = max(seconds["score, neglabel"], seconds["score, rationeg"], seconds["eval on folders"])
    write(
        "startup",
        seconds,
        seconds["eval on folders, plain imports"] / seconds["eval on folders"],
        out=options.out,
        rows=rows,
        ratio_of="eval on folders with plain imports over eval on folders",
        target_seconds=TARGET,
        target_met=warm < TARGET,
    )


if __name__ == "__main__":
    main()

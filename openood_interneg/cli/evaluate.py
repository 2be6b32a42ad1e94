"""`interneg eval`: methods on a benchmark."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.measure import Measurement

from openood_interneg.cli.arguments import Config, Preset
from openood_interneg.cli.baselines import check_openood_methods, run_openood_method
from openood_interneg.cli.console import console, say
from openood_interneg.cli.options import plan_methods, split_baselines, with_settings
from openood_interneg.cli.workspace import (
    WorkspaceOptions,
    check_out_folder,
    open_workspace,
    with_workspace,
)
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.image_scores import write_image_scores
from openood_interneg.evaluation.protocols import Batch, check_protocol
from openood_interneg.evaluation.provenance import run_record
from openood_interneg.evaluation.results import narrow_table, results_table, write_results
from openood_interneg.settings import LARGEST, SettingsError, shown

DEFAULT_METHODS = "mcm,neglabel,interneg_negatives_only,interneg"


def evaluate(
    settings: dict,
    workspace: WorkspaceOptions,
    methods: Annotated[
        str, typer.Option(help="Names, comma-separated, or all; OpenOOD's own, too.")
    ] = DEFAULT_METHODS,
    preset: Preset = None,
    protocol: Annotated[str, typer.Option(help="mixed (the paper's) or openood.")] = "mixed",
    seeds: Annotated[str, typer.Option(help="Seeds of the stream's order and draws.")] = "0",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step of a stream.")] = 256,
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, .csv and scores.")
    ] = None,
) -> Evaluation:
    """Evaluate methods on a benchmark and print a table.

    Images are encoded once and kept; every method, seed and protocol is a replay.
    """
    check_out_folder(out)
    quiet = workspace.quiet
    ours, openoods = split_baselines(methods)
    plans = plan_methods(ours, settings, config, preset) if ours else []
    check_openood_methods(openoods)
    seed_list = parse_seeds(seeds)
    order = check_protocol(protocol)
    with open_workspace(workspace) as (evaluation, progress):
        start = time.perf_counter()
        benchmark = evaluation.benchmark
        evaluation.check(plans)
        id_size, ood_sizes = len(benchmark.test), [len(images) for images in benchmark.ood]
        times_id = len(ood_sizes) if protocol == "mixed" else 1
        per_run = times_id * id_size + sum(ood_sizes)
        total = (len(plans) + len(openoods)) * len(seed_list) * per_run

        def scored(batch: Batch) -> None:
            progress("images scored", len(batch.places), total)

        for method, chosen in plans:
            for seed in seed_list:
                evaluation.run(
                    method.name,
                    chosen,
                    protocol=order,
                    seed=seed,
                    batch_size=batch_size,
                    observers=[scored],
                )
        notes = {}
        for name in openoods:
            notes[name] = run_openood_method(evaluation, name, protocol, seed_list, batch_size)
            progress("images scored", len(seed_list) * per_run, total)
    results = evaluation.results
    screen, table = console(), results_table(results.rows)
    fits = Measurement.get(screen, screen.options.update(width=1000), table).minimum
    screen.print(table if fits <= screen.width else narrow_table(results.rows))
    for name, note in notes.items():
        if note:
            console().print(f"{name}: {note}.")
    if protocol == "openood":
        say(
            "protocol openood scores all ID images before any OOD image was seen; for methods "
            "with a memory these figures are not comparable with the paper's (mixed).",
            quiet,
            "dim",
        )
    seconds = time.perf_counter() - start
    parts = ", ".join(f"{stage} {value:.1f} s" for stage, value in results.seconds.items())
    say(f"{seconds:.1f} s in all: {parts}", quiet, "dim")
    if out is not None:
        write_results(
            out,
            results,
            run_record(
                evaluation,
                plans,
                seed_list,
                protocol,
                batch_size,
                workspace.source,
                workspace.limit,
            ),
        )
        if missing := write_image_scores(out, results, benchmark):
            say(f"{missing}; scores.csv has the same", quiet)
        say(f"results in {out}", quiet)
    return evaluation


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` -> [0, 1, 2].

    Raises:
        SettingsError: something that is not a list of whole numbers from 0 up.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--seeds is {text!r}; write whole numbers as 0,1,2") from None
    if any(not 0 <= seed <= LARGEST for seed in seeds):
        raise SettingsError(f"--seeds is {shown(text)}; seeds go from 0 to {LARGEST}")
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds is {text!r}; a seed that stands twice is no second run")
    return seeds


# --seeds takes the place of the setting seed.
command = with_settings(with_workspace(evaluate), without=("seed",))

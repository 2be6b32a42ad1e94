"""`interneg reproduce`: the paper's tables and figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, cast

import typer
from rich import box
from rich.table import Table as RichTable
from rich.text import Text as RichText

from openood_interneg.cli.arguments import (
    CacheDir,
    DataRoot,
    Device,
    EncodeBatch,
    Precision,
    Pretrained,
    ReadingWorkers,
)
from openood_interneg.cli.console import console, progress_bars, say
from openood_interneg.cli.evaluate import parse_seeds
from openood_interneg.cli.workspace import MINIATURE, check_out_folder, draw_miniature
from openood_interneg.data.store import Store, default_root
from openood_interneg.reproduce.experiment import (
    PAPER_BENCHES,
    SUBSTITUTES,
    Experiment,
)
from openood_interneg.reproduce.experiment_files import list_experiments, load_experiment
from openood_interneg.reproduce.options import Options, availability
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.write import write_report, write_result
from openood_interneg.settings import SettingsError, printable
from openood_interneg.vlm.device import pick_device
from openood_interneg.vlm.precision import Precision as PrecisionName


def reproduce(
    what: Annotated[
        str, typer.Argument(help="list, all, or names: table1, table3,figure4, a YAML file.")
    ] = "list",
    data_root: DataRoot = None,
    bench: Annotated[
        str | None,
        typer.Option(help="imagenet, cifar10, cifar100, realbench10, realbench100 or miniature."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Instead of the experiment's own; several, with commas.")
    ] = None,
    pretrained: Pretrained = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images per test set, at most.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Instead of the experiment's own, as 0,1,2.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Word list instead of WordNet.")] = None,
    corpora: Annotated[Path | None, typer.Option(help="Folder of Table 13's word lists.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="On substituted data, too, all points of a sweep.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute finished runs again.")] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    encode_batch: EncodeBatch = 128,
    workers: ReadingWorkers = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and the finished runs.")] = Path(
        "reproduced"
    ),
    cache_dir: CacheDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the tables.")] = False,
) -> None:
    """Make the paper's tables and figures, with the published figures beside yours.

    Finished runs are kept in OUT, so an interrupted command continues where it stopped. The report
    is OUT/report.html, and the same as Markdown, LaTeX, CSV and JSON.
    """
    known = (*PAPER_BENCHES, *SUBSTITUTES)
    if bench is not None and bench not in known and not bench.endswith((".yml", ".yaml")):
        raise SettingsError(f"--bench is '{bench}'; choose {', '.join(known)}, or a YAML file")
    if what != "list":
        check_out_folder(out)
    cache = cache_dir or default_root()
    if bench == MINIATURE:
        backbone = backbone or MINIATURE
        if data_root is None:
            drawn = what != "list"
            data_root = draw_miniature(cache_dir, quiet) if drawn else cache / MINIATURE
    options = Options(
        bench=bench,
        data_root=data_root,
        backbones=tuple(backbone.split(",")) if backbone else (),
        pretrained=pretrained,
        limit=limit,
        seeds=tuple(parse_seeds(seeds)) if seeds else (),
        corpus=corpus,
        corpora=corpora,
        short=False if full else None,
        device=str(pick_device(device)),
        precision=cast(PrecisionName, precision),  # which the backbone refuses if unknown
        encode_batch=encode_batch,
        workers=workers,
        fresh=fresh,
    )
    experiments = _chosen(what, options)
    if what == "list":
        console().print(_listing(experiments, options))
        return
    start = time.perf_counter()
    with progress_bars(quiet) as progress:
        run = Reproduction(
            options, Store(cache), out, lambda line: say(line, quiet, "dim"), progress
        )
        ran, reasons = False, []
        for experiment in experiments:
            result = run.run(experiment)
            reasons += result["unavailable"]
            if any("sets" in cell for cell in result["cells"]):
                write_result(out, experiment, result)
                ran = True
            else:
                say(f"{experiment.id} could not run here", quiet, "yellow")
    if not ran:
        raise SettingsError(
            f"nothing could run here. {reasons[0]}. {_advice(bench)}interneg reproduce list says "
            "what is missing"
        )
    text = write_report(out)
    names = {experiment.id for experiment in experiments}
    console().print(text.markdown_of(names), soft_wrap=True)
    say(f"{time.perf_counter() - start:.1f} s; the report is {out / 'report.html'}", quiet)


def _advice(bench: str | None) -> str:
    """What stands in for data that are not at hand, but for what was given."""
    others = [name for name in SUBSTITUTES if name != bench]
    return f"Where data or weights are not at hand: --bench {' or '.join(others)}; "


def _chosen(what: str, options: Options) -> list[Experiment]:
    if what in ("list", "all"):
        every = [load_experiment(name) for name in list_experiments()]
        if what == "all" and options.bench in PAPER_BENCHES:
            every = [e for e in every if e.family == options.bench]
        return every
    experiments = [load_experiment(name.strip()) for name in what.split(",") if name.strip()]
    for experiment in experiments:
        if options.bench in PAPER_BENCHES and experiment.family != options.bench:
            raise SettingsError(
                f"{experiment.id} is an experiment on {experiment.family}; leave --bench out, or "
                f"stand {', '.join(SUBSTITUTES)} in for it"
            )
    return experiments


def _listing(experiments: list[Experiment], options: Options) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("name", "what", "needs"):
        table.add_column(name)
    for experiment in experiments:
        needs = [
            RichText.assemble(("✓ ", "green"), printable(need))
            if state == "there"
            else RichText.assemble(
                ("✗ ", "yellow"), printable(need), ": ", (printable(state), "dim")
            )
            for need, state in availability(experiment, options).items()
        ]
        title = f"{experiment.source}: {experiment.title}"
        table.add_row(experiment.id, title, RichText("\n").join(needs))
    table.caption = (
        "Where ImageNet or the weights are not there: --bench realbench10, realbench100 or "
        "miniature stands in."
    )
    return table


command = reproduce

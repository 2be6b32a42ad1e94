"""`interneg encode`: fill the store, in one process or under torchrun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from openood_interneg.cli.arguments import Config, Preset
from openood_interneg.cli.console import Advance, say
from openood_interneg.cli.evaluate import parse_seeds
from openood_interneg.cli.options import INVERSION, TEXT_SPACE, plan_interneg, with_settings
from openood_interneg.cli.workspace import WorkspaceOptions, open_workspace, with_workspace
from openood_interneg.data.encode import IMAGES_PER_SHARD
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.shared_store import (
    DistContext,
    init_distributed,
    local_device,
)
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.negatives.stored_inversion import (
    StoredInverter,
    pseudo_token_inversion,
)
from openood_interneg.negatives.token_start import word_started_inversion


def encode(
    settings: dict,
    workspace: WorkspaceOptions,
    preset: Preset = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Images per stored file; eval finds the default size only.")
    ] = IMAGES_PER_SHARD,
    texts: Annotated[bool, typer.Option(help="Also encode and rank the corpus.")] = True,
    invert: Annotated[
        bool,
        typer.Option(help="Also invert every image (eval needs only those that score below beta)."),
    ] = False,
    seeds: Annotated[str, typer.Option(help="Seeds of the inversions.")] = "0",
    config: Config = None,
) -> None:
    """Encode a benchmark's images and texts and rank its corpus, so that `eval` finds all of it
    stored.

    Runs in one process, or in many: torchrun --nproc-per-node 8 -m openood_interneg.cli encode
    ... The result is the same. A run that was stopped continues where it was.
    """
    method, chosen = plan_interneg(settings, config, preset)
    seed_list = parse_seeds(seeds)
    with init_distributed() as context:
        workspace = replace(workspace, device=str(local_device(context, workspace.device)))
        with open_workspace(workspace, context) as (evaluation, progress):
            benchmark = evaluation.benchmark
            evaluation.encoder.shard_rows = shard_size
            evaluation.check([(method, chosen)])
            for images in (benchmark.test, *benchmark.ood):
                evaluation.encoder.entry(images)
            source = evaluation.source
            if benchmark.train is not None:
                source.proxies(chosen)
            minable = benchmark.train is not None or chosen.negatives == "intra"
            if texts and minable and chosen.negatives != "none" and chosen.num_negatives:
                source.mined(chosen)
            if invert:
                for seed in seed_list:
                    seeded = replace(chosen, seed=seed)
                    if seeded.init == "words":
                        inversion = word_started_inversion(source, seeded, source.build(seeded))
                    else:
                        inversion = pseudo_token_inversion(evaluation.backbone, seeded)
                    inverter = evaluation.inverters(inversion)
                    for images in (benchmark.test, *benchmark.ood):
                        invert_all(context, evaluation, inverter, images, shard_size, progress)
        say(
            f"process {context.rank} of {context.size} encoded {evaluation.encoder.encoded} images",
            workspace.quiet,
        )


def invert_all(
    context: DistContext,
    evaluation: Evaluation,
    inverter: StoredInverter,
    images: ImageList,
    block: int,
    progress: Advance,
) -> None:
    """Inverts this process's share of a set, block by block, each kept when it is done."""
    data = evaluation.feature_set(images)
    for begin in context.share(range(0, len(data), block)):
        part = slice(begin, min(begin + block, len(data)))
        inverter(data.features[part], data.ids[part])
        inverter.flush()
        progress(f"invert {images.name}", part.stop - part.start, len(data))
    context.wait()


# --seeds takes the place of the setting seed.
command = with_settings(
    with_workspace(
        encode,
        without=("limit", "fsood", "no_cache"),
        device=Annotated[str, typer.Option(help="cpu, cuda (each process its own GPU), or auto.")],
        workers=Annotated[
            int, typer.Option(min=0, help="Processes that read images, for each process.")
        ],
        cache_dir=Annotated[
            Path | None, typer.Option(help="Where features are kept; all processes must see it.")
        ],
        quiet=Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")],
    ),
    methods=["interneg"],
    names=(*TEXT_SPACE, *INVERSION),
    without=("seed",),
)

"""`interneg doctor`: what is here, what is missing and what to do about it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from openood_interneg.cli.arguments import DataRoot
from openood_interneg.cli.console import console, progress_bars
from openood_interneg.data.benchmark_files import bench_folder, list_benchmarks
from openood_interneg.data.benchmark_yaml import load_benchmark, read_spec
from openood_interneg.data.image_lists import check_images
from openood_interneg.data.images import read_errors
from openood_interneg.data.store import default_root
from openood_interneg.evaluation.provenance import versions
from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.words import CorpusError
from openood_interneg.settings import InternegError
from openood_interneg.vlm.device import instruction_set, pick_device
from openood_interneg.vlm.factory import OPENAI_BACKBONES
from openood_interneg.vlm.text_precision import has_bf16


def doctor(
    bench: Annotated[
        str | None,
        typer.Option(help="Also read every image of this benchmark to its end."),
    ] = None,
    data_root: DataRoot = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look whether the benchmark's images exist.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Predict how long a run takes, from kept figures.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --cost: measure this machine, in a minute.")
    ] = False,
    images: Annotated[float, typer.Option(help="With --cost: how many images, as 1e9.")] = 1e6,
    backbone: Annotated[str, typer.Option(help="With --cost: a name of OpenAI's.")] = "ViT-B/16",
    precision: Annotated[str, typer.Option(help="With --cost: fp32, bf16 or fp16.")] = "fp32",
    templates: Annotated[str, typer.Option(help="With --cost: photo or imagenet80.")] = "photo",
    device: Annotated[str, typer.Option(help="With --cost: cpu, cuda, ... or auto.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="With --cost: how many devices.")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read images; with --cost: decoders per device."),
    ] = None,
) -> None:
    """Report versions, device, OpenOOD, weights, corpora and data sets; exit code 1 if the
    benchmark asked for is not complete."""
    if cost:
        from openood_interneg.cli.cost import cost_table

        table = cost_table(
            backbone,
            round(images),
            device=pick_device(device),
            precision=precision,
            templates=templates,
            devices=devices,
            workers=workers,
            measured=measure,
        )
        console().print(table)
        return
    table = Table(title="interneg doctor", show_header=False, title_style="bold", pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, version in versions().items():
        table.add_row(name, version)
    table.add_section()
    table.add_row("device", _device())
    table.add_row("bf16", _bf16())
    table.add_row("OpenOOD", _openood())
    table.add_section()
    for name in OPENAI_BACKBONES:
        table.add_row(f"weights {name}", _weights(name))
    table.add_row("weights miniature", "embedded")
    table.add_section()
    for source in ("wordnet", "nltk:wordnet", "nltk:wordnet31"):
        table.add_row(f"corpus {source}", _corpus(source))
    table.add_section()
    table.add_row("cache", f"{default_root()}{'' if default_root().exists() else ' (empty)'}")
    table.add_row("benchmarks", ", ".join(list_benchmarks()))
    complete = True
    if bench is not None:
        complete, text = _benchmark(bench, data_root, quick, workers or 0)
        table.add_row(f"benchmark {bench}", text)
    console().print(table)
    if not complete:
        raise typer.Exit(1)


def _device() -> str:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return f"CPU with {torch.get_num_threads()} threads, no GPU"


def _bf16() -> str:
    """Whether low precision pays here, and what to set."""
    device = pick_device("auto")
    where = "this GPU" if device.type != "cpu" else f"this CPU ({instruction_set()})"
    if has_bf16(device):
        return (
            f"{where} has instructions for it; --corpus-precision auto encodes the corpus in it, "
            "--precision bf16 images and inversions, too"
        )
    return f"{where} has no instructions for it; leave --precision at fp32"


def _openood() -> str:
    if importlib.util.find_spec("openood") is None:
        return (
            "not installed; `interneg eval` works without it. To use the plugin: "
            'pip install --no-deps "git+https://github.com/Jingkang50/OpenOOD"'
        )
    from openood_interneg.plugin.openood import load_openood

    stood_in = load_openood()
    return "found" + (f"; stand-ins for {', '.join(sorted(stood_in))}" if stood_in else "")


def _weights(name: str) -> str:
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(OPENAI_BACKBONES[name], "openai") or {}
    hub = (config.get("hf_hub") or "").rstrip("/")
    for file in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        if hub and isinstance(try_to_load_from_cache(hub, file), str):
            return "downloaded"
    return "not downloaded yet; the first use does it, or pass a checkpoint file"


def _corpus(source: str) -> str:
    try:
        corpus = load_corpus(source)
    except CorpusError as error:
        return str(error)
    return f"{len(corpus.nouns)} nouns, {len(corpus.adjectives)} adjectives"


def _benchmark(bench: str, data_root: Path | None, quick: bool, workers: int) -> tuple[bool, str]:
    """Whether all images of a benchmark are there (and can be read), and a text that says so."""
    try:
        folders = bench_folder(bench)
        if folders is None:
            benchmark = read_spec(bench).read(data_root)
        else:
            benchmark = load_benchmark(folders, data_root)
        train = [benchmark.train] if benchmark.train is not None else []
        sets = [*train, benchmark.test, *benchmark.csid, *benchmark.ood]
        for images in sets:
            check_images(images)
    except InternegError as error:
        return False, str(error)
    counts = [f"{s.name}{' (train)' if s in train else ''} ({len(s)})" for s in sets]
    text = f"{len(benchmark.class_names)} classes; {', '.join(counts)}"
    if quick:
        return True, f"complete: {text}; images were looked for, not read (--quick)"
    with progress_bars(False) as progress:
        wrong = []
        for images in sets:
            for found in read_errors([images.file(i) for i in range(len(images))], workers):
                progress("images read", 1, sum(map(len, sets)))
                wrong += [found] if found else []
    if wrong:
        some = "\n".join(wrong[:10]) + (f"\n... and {len(wrong) - 10} more" if wrong[10:] else "")
        return False, f"{len(wrong)} images cannot be read:\n{some}"
    return True, f"complete: {text}; every image was read"


command = doctor

"""The table of `interneg doctor --cost`: what a run over N images takes, and whose figures say so.

`cost_model` is the arithmetic, `cost_measure` times the stages here, `cost_figures` has figures
that need no measuring.
"""

from __future__ import annotations

import os

import torch
from rich.table import Table

from openood_interneg.cli.cost_figures import derived_figures, kept_figures
from openood_interneg.cli.cost_measure import cpu_name, measure
from openood_interneg.cli.cost_model import SHARES, CostedMethod, Figures, predict

METHODS: dict[CostedMethod, str] = {"interneg": "InterNeg", "rationeg": "RatioNeg"}
COLUMNS = ("share", "encode", "invert", "replay", "in all", "store", "memory", "files")


def chosen_figures(
    name: str, device: str | torch.device, precision: str, templates: str, measured: bool
) -> list[Figures]:
    """Figures of the device, and for a CPU those of a GPU beside them.

    Raises:
        SettingsError: no figures are kept for that model, or nothing is known of its size.
    """
    if measured:
        own = measure(name, device, precision, templates)
        if torch.device(device).type != "cpu":
            return [own]
    else:
        own = kept_figures(name, precision, templates)
    gpu = derived_figures(own, name, precision, templates)
    return [own] if gpu is None else [own, gpu]


def cost_table(
    name: str,
    images: int,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    templates: str = "photo",
    devices: int = 1,
    workers: int | None = None,
    measured: bool = False,
) -> Table:
    """Lays the prediction out, for each device and method and four shares of images.

    Args:
        name: of the backbone.
        images: N.
        device: that is measured.
        precision: of the towers.
        templates: prompt set of the inversions.
        devices: that encode and invert side by side.
        workers: decoding processes per device; by default half the cores.
        measured: times the stages here, else takes the package's figures.
    """
    workers = workers or max((os.cpu_count() or 2) // 2, 1)
    rows = chosen_figures(name, device, precision, templates, measured)
    many = "" if devices == 1 else f", {devices} devices"
    table = Table(
        title=f"{images:,} images, {name}, {precision}, {templates}{many}",
        caption=_caption(rows, workers, measured),
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for figures in rows:
        for method, title in METHODS.items():
            table.add_section()
            table.add_row(f"{title}, {figures.device}", style="bold")
            for share in SHARES:
                cost = predict(
                    figures, images, share, method=method, devices=devices, workers=workers
                )
                table.add_row(
                    "gated" if method == "interneg" else "remembered",
                    f"{share:.0%}",
                    *(_time(s) for s in (cost.encode, cost.invert, cost.replay, cost.seconds)),
                    _size(cost.features + cost.inversions),
                    _size(cost.memory),
                    f"{cost.shards:,}",
                )
    return table


def _caption(rows: list[Figures], workers: int, measured: bool) -> str:
    lines = []
    for f in rows:
        lines.append(
            f"{f.device}: {f.origin}. decode {_ms(f.decode)} and encode {_ms(f.encode)} an image; "
            f"in a batch of {f.batch}: inversion {_ms(f.invert.fixed)} for each pass of at most "
            f"{f.chunk} images and {_ms(f.invert.each)} for each image; scoring {_ms(f.score)}, "
            f"again {_ms(f.rescore)} where an image is gated; RatioNeg {_ms(f.remember.fixed)} "
            f"and {_ms(f.remember.each)} for each image it remembers."
        )
    lines.append(
        f"Assumed: JPEGs of 500 x 375; {workers} decoding process{'' if workers == 1 else 'es'} "
        "per device, beside the encoding; InterNeg with C = 1000, M = K = 2000, every batch with "
        "that share of gated images; RatioNeg with C = 1000, M = 70,000, K = 500 and 2,000 ID "
        "images; the disk keeps up; encoding and inverting scale with the devices, the replay of "
        "one stream does not. Mining and start do not grow with the images and are left out."
    )
    if not measured:
        lines.append(f"This machine is: {cpu_name()}. --measure takes its own figures.")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _time(seconds: float) -> str:
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"

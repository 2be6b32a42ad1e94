"""What a user chooses beside an experiment, and whether what it needs is on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from openood_interneg.reproduce.experiment import PAPER_BENCHES, Experiment
from openood_interneg.reproduce.parts import part_benchmark
from openood_interneg.settings import InternegError, SettingsError
from openood_interneg.vlm.backbones import Precision
from openood_interneg.vlm.factory import backbone_label


@dataclass(frozen=True)
class Options:
    """What a user chooses beside the experiment.

    Attributes:
        bench: a substitute benchmark, one of the paper's, or None for the experiment's own.
        data_root: folder of the images, or None for the default.
        backbones: in place of the experiment's.
        pretrained: weights of the backbones, or None for the default.
        limit: largest number of images per test set, or None.
        seeds: in place of the experiment's.
        corpus: word list in place of the settings'.
        corpora: folder with the word lists that experiments ask for.
        short: fewer points in sweeps; by default where the data are substituted.
        device: where the backbones run.
        precision: of the backbones.
        encode_batch: images per forward pass.
        workers: processes that read images.
        fresh: compute cells even if they are there.
    """

    bench: str | None = None
    data_root: Path | None = None
    backbones: tuple[str, ...] = ()
    pretrained: str | None = None
    limit: int | None = None
    seeds: tuple[int, ...] = ()
    corpus: str | None = None
    corpora: Path | None = None
    short: bool | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    encode_batch: int = 128
    workers: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError for two backbones that tables could not tell apart."""
        seen: dict[str, str] = {}
        for source in self.backbones:
            label = backbone_label(source)
            if label in seen:
                raise SettingsError(
                    f"the backbones {seen[label]} and {source} would both be called '{label}' in "
                    "tables, as if one had run twice; leave one out or rename its file"
                )
            seen[label] = source

    @property
    def substitute(self) -> str | None:
        """The benchmark that stands in for the paper's, or None."""
        return None if self.bench in (None, *PAPER_BENCHES) else self.bench

    @property
    def corpora_root(self) -> Path:
        """Folder with the word lists that experiments ask for."""
        return Path(self.corpora or (self.data_root or Path("data")) / "corpus")


def availability(experiment: Experiment, options: Options) -> dict[str, str]:
    """What an experiment needs and whether it is there: need -> "there" or what is missing."""
    out: dict[str, str] = {}
    for part in experiment.parts_for(options.substitute):
        name = options.substitute or Path(part.benchmark).stem
        try:
            _, benchmark = part_benchmark(
                part, options.substitute, options.data_root, options.limit
            )
            first = benchmark.test.file(0)
            state = "there" if first.is_file() else f"no image at {first}"
        except InternegError as error:
            state = str(error).split(";")[0]
            if name == "miniature":
                state = "drawn at the first use"
        out[f"data {name}"] = state
    for name in options.backbones or experiment.backbones:
        out[f"weights {Path(name).stem if os.sep in name else name}"] = _weights_state(name)
    for name, wanted in experiment.corpora.items():
        there = (options.corpora_root / wanted["file"]).is_file()
        out[f"word list {name}"] = "there" if there else f"put it at corpus/{wanted['file']}"
    return out


_HUB = {
    "RN50": "resnet50_clip.openai",
    "RN101": "resnet101_clip.openai",
    "ViT-B/32": "vit_base_patch32_clip_224.openai",
    "ViT-B/16": "vit_base_patch16_clip_224.openai",
    "ViT-L/14": "vit_large_patch14_clip_224.openai",
}


def _weights_state(name: str) -> str:
    if name == "miniature" or Path(name).is_file():
        return "there"
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    downloaded = name in _HUB and (cache / f"models--timm--{_HUB[name]}" / "snapshots").is_dir()
    clip = Path.home() / ".cache" / "clip" / f"{name.replace('/', '-')}.pt"
    return "there" if downloaded or clip.is_file() else "downloaded at the first use"

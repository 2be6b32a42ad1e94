"""A cell: one method at one point of one part with one backbone and one seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openood_interneg.data.encode import kind_name
from openood_interneg.data.image_lists import list_digest
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.evaluate import Evaluation, with_seed
from openood_interneg.evaluation.provenance import (
    corpus,
    corpus_precision,
    environment,
    versions,
)
from openood_interneg.reproduce.experiment import Experiment, Part, Point, Variant
from openood_interneg.reproduce.options import Options
from openood_interneg.settings import MethodSettings, SettingsError, as_mapping, merged


@dataclass
class Cell:
    """One run and where it stands in the table."""

    part: Part
    backbone: str
    variant: Variant
    point: Point
    seed: int
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def coordinates(self) -> dict[str, Any]:
        """Its labels, as rows and columns are named by them."""
        return {
            "part": self.part.name,
            "backbone": self.backbone,
            "method": self.variant.label,
            "point": self.point.label,
            "seed": self.seed,
        }

    @property
    def title(self) -> str:
        """Its labels in one line."""
        names = [Path(self.backbone).stem, self.part.name, self.point.label]
        return " · ".join([n for n in names if n] + [self.variant.label, f"seed {self.seed}"])


def cells_of(experiment: Experiment, options: Options) -> list[Cell]:
    """All cells of an experiment under the options, in the order they run."""
    short = options.short if options.short is not None else options.substitute is not None
    points = experiment.points
    if short and experiment.short_points:
        points = experiment.short_points
    return [
        Cell(part, backbone, variant, point, seed)
        for backbone in options.backbones or experiment.backbones
        for part in experiment.parts_for(options.substitute)
        for point in points
        for variant in experiment.methods
        for seed in options.seeds or experiment.seeds
    ]


def number_of_cells(experiment: Experiment, options: Options) -> int:
    """How many cells an experiment has with all of its points."""
    count = len(options.backbones or experiment.backbones)
    count *= len(experiment.parts_for(options.substitute))
    count *= len(experiment.methods) * len(options.seeds or experiment.seeds)
    return count * len(experiment.points)


def cell_settings(experiment: Experiment, cell: Cell, options: Options) -> MethodSettings:
    """The settings of a cell: preset, then part, method and point, then the user's corpus.

    Raises:
        SettingsError: unknown or bad settings, or a word list that is not there.
    """
    method = get_method(cell.variant.method)
    names = method.setting_names
    file = dict(cell.part.settings.get(method.name, {})) | dict(cell.variant.settings)
    file |= {k: v for k, v in cell.point.settings.items() if k in names}
    preset = method.presets.get(cell.variant.preset or experiment.preset or "", {})
    source = options.corpus
    if cell.point.corpus:  # what the row is about
        source = str(_corpus_file(experiment, cell.point.corpus, options))
    given = {"corpus": source} if source and "corpus" in names else {}
    values = merged(preset=preset, file=file, given=given)
    values = {k: v for k, v in values.items() if k not in method.fixed}
    return with_seed(method.make_settings(values, experiment.id), cell.seed)


def _corpus_file(experiment: Experiment, name: str, options: Options) -> Path:
    wanted = experiment.corpora[name]
    path = options.corpora_root / wanted["file"]
    if not path.is_file():
        raise SettingsError(f"no word list {wanted['file']} for {name}: {wanted['where']}")
    return path


def cell_key(
    experiment: Experiment, cell: Cell, evaluation: Evaluation, settings: MethodSettings
) -> dict[str, Any]:
    """Everything that decides a cell's outcome; its file is named by the digest of this."""
    clip, bench = evaluation.backbone, evaluation.benchmark
    plain = as_mapping(settings)
    if "corpus" in plain:
        plain["corpus"] = corpus(plain["corpus"]).digest
    if (precision := corpus_precision(clip, settings)) is not None:
        plain["corpus_precision"] = precision  # "auto" is another one on another device
    key: dict[str, Any] = {
        "kind": "table" if experiment.kind == "sweep" else experiment.kind,
        "version": versions()["openood-interneg"],
        "weights": clip.digest,
        "precision": clip.precision,
        "preprocess": evaluation.encoder.preprocess.key(),
        "classes": list(bench.class_names),
        "test": bench.test.digest,
        "ood": [[images.name, images.digest] for images in bench.ood],
        "train": list_digest(bench.train) if bench.train is not None else None,
        "method": cell.variant.method,
        "settings": plain,
        "protocol": experiment.protocol,
        "batch_size": experiment.batch_size,
        "seed": cell.seed,
    }
    kind = get_method(cell.variant.method).features_of(settings)
    if kind != "image":
        key["input"] = kind_name(kind)
    if experiment.kind == "ratios":
        key["counts"] = cell.point.counts
    if experiment.kind == "streams":
        point = cell.point
        key["stream"] = {"name": point.stream, "ratio": point.counts, "shift": point.shift}
    if experiment.kind == "timing":
        key |= {"images": experiment.images, "device": environment(clip.device)["device"]}
    return key

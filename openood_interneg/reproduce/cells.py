"""Runs an experiment cell by cell. A finished cell is on disk at once.

A cell is one method at one point of one part with one backbone and one seed. Its file is named
by a digest of everything that decides its outcome (weights, image lists, corpus, settings,
protocol, seed), so experiments share cells, and an interrupted run continues where it stopped.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openood_interneg.data.benchmark import Benchmark, BenchmarkError
from openood_interneg.data.encode import Encoder, kind_name
from openood_interneg.data.image_ids import image_ids
from openood_interneg.data.store import Store, atomic_path, digest
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.metrics import ood_metrics
from openood_interneg.evaluation.protocols import FeatureSet, mixed_order, run_mixed
from openood_interneg.evaluation.provenance import (
    FPR,
    corpus,
    describe_benchmark,
    describe_corpus,
    environment,
    list_digest,
)
from openood_interneg.evaluation.results import versions
from openood_interneg.negatives.stored_inversion import live_inverter
from openood_interneg.reproduce.error_types import error_rates, text_logits, unit_score
from openood_interneg.reproduce.exhibits import make_exhibit
from openood_interneg.reproduce.experiment import (
    PAPER_BENCHES,
    Entry,
    Experiment,
    Part,
    Point,
    draw,
    part_benchmark,
    ratio_counts,
)
from openood_interneg.reproduce.sealed import file_digest, read_sealed, write_sealed
from openood_interneg.settings import (
    InternegError,
    MethodSettings,
    SettingsError,
    as_mapping,
    merged,
)
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import backbone_label, load_backbone

Told = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a user chooses beside the experiment.

    Attributes:
        bench: a substitute benchmark, one of the paper's, or None for the experiment's own.
        short: fewer points in sweeps; by default where the data are substituted.
        corpora: folder with the word lists that experiments ask for.
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
    precision: str = "fp32"
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


@dataclass
class Cell:
    """One run and where it stands in the table."""

    part: Part
    backbone: str
    entry: Entry
    point: Point
    seed: int
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def coordinates(self) -> dict[str, Any]:
        """Its labels, as rows and columns are named by them."""
        return {
            "part": self.part.name,
            "backbone": self.backbone,
            "method": self.entry.label,
            "point": self.point.label,
            "seed": self.seed,
        }


class Reproduction:
    """Everything that experiments share: backbones, features, texts, inversions, cells.

    Args:
        options: the user's choices. store: features, texts and inversions. out: folder of the
            results; cells go to `out/cells`.
        tell: told what happens. progress: told of images and texts encoded.
    """

    def __init__(self, options: Options, store: Store, out: Path, tell: Told, progress=None):
        self.options, self.store, self.out = options, store, Path(out)
        self.tell, self.progress = tell, progress
        self._backbones: dict[str, Backbone | Exception] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._benchmarks: dict[str, tuple[Benchmark, Benchmark]] = {}

    # ---- what is shared ------------------------------------------------------------------

    def backbone(self, name: str) -> Backbone:
        """Loaded once.

        Raises:
            WeightsError, CheckpointError: not to be had here.
        """
        if name not in self._backbones:
            try:
                self._backbones[name] = load_backbone(
                    name,
                    pretrained=self.options.pretrained,
                    device=torch.device(self.options.device),
                    precision=self.options.precision,
                )
            except InternegError as error:
                self._backbones[name] = error
        found = self._backbones[name]
        if isinstance(found, Exception):
            raise found
        return found

    def benchmarks(self, part: Part) -> tuple[Benchmark, Benchmark]:
        """A part's whole benchmark, and the one with the part's OOD sets; read once.

        Raises:
            BenchmarkError: not there.
        """
        key = digest([part.benchmark, part.sets, part.proxies_from_test])
        if key not in self._benchmarks:
            self._benchmarks[key] = part_benchmark(
                part, self.options.substitute, self.options.data_root, self.options.limit
            )
        return self._benchmarks[key]

    def evaluation(self, part: Part, backbone: Backbone, preprocess: str) -> Evaluation:
        """The part's benchmark with this backbone; features and texts are shared by parts."""
        whole, chosen = self.benchmarks(part)
        shared = digest([describe_benchmark(whole), backbone.digest, preprocess])
        if shared not in self._evaluations:
            self._evaluations[shared] = Evaluation(
                whole,
                backbone,
                self.store,
                preprocess=self._preprocess(backbone, preprocess),
                encode_batch=self.options.encode_batch,
                workers=self.options.workers,
                progress=self.progress,
            )
        view = copy.copy(self._evaluations[shared])
        view.benchmark = chosen
        return view

    def _preprocess(self, backbone: Backbone, name: str):
        # What the paper's scripts do to ImageNet is meant for backbones of 224 pixels.
        return backbone.preprocess.variant("clip" if self.options.substitute else name)

    # ---- one experiment ------------------------------------------------------------------

    def cells(self, experiment: Experiment) -> list[Cell]:
        """All cells of an experiment under the options, in the order they run."""
        options = self.options
        short = options.short if options.short is not None else options.substitute is not None
        points = experiment.points
        if short and experiment.short_points:
            points = experiment.short_points
        return [
            Cell(part, backbone, entry, point, seed)
            for backbone in options.backbones or experiment.backbones
            for part in experiment.parts_for(options.substitute)
            for point in points
            for entry in experiment.methods
            for seed in options.seeds or experiment.seeds
        ]

    def settings(self, experiment: Experiment, cell: Cell) -> MethodSettings:
        """The settings of a cell: preset, then part, method and point, then the user's corpus.

        Raises:
            SettingsError: unknown or bad settings, or a word list that is not there.
        """
        method = get_method(cell.entry.method)
        names = method.setting_names
        file = dict(cell.part.settings.get(method.name, {})) | dict(cell.entry.settings)
        file |= {k: v for k, v in cell.point.settings.items() if k in names}
        preset = method.presets.get(cell.entry.preset or experiment.preset or "", {})
        source = self.options.corpus
        if cell.point.corpus:  # what the row is about
            source = str(self._corpus_file(experiment, cell.point.corpus))
        given = {"corpus": source} if source and "corpus" in names else {}
        values = merged(preset=preset, file=file, given=given)
        values = {k: v for k, v in values.items() if k not in method.fixed}
        settings = method.make_settings(values, experiment.id)
        return replace(settings, seed=cell.seed) if hasattr(settings, "seed") else settings

    def _corpus_file(self, experiment: Experiment, name: str) -> Path:
        wanted = experiment.corpora[name]
        root = self.options.corpora or (self.options.data_root or Path("data")) / "corpus"
        path = Path(root) / wanted["file"]
        if not path.is_file():
            raise SettingsError(f"no word list {wanted['file']} for {name}: {wanted['where']}")
        return path

    def run(self, experiment: Experiment) -> dict[str, Any]:
        """Runs all cells that are not on disk; the outcome as plain values.

        A cell that cannot run here (no weights, no data, a setting that the corpus is too small
        for) says why and leaves its place in the table empty.
        """
        started = time.perf_counter()
        cells = self.cells(experiment)
        found = computed = 0
        for number, cell in enumerate(cells, 1):
            where = self._named(cell)
            try:
                cell.result, was_there = self._cell(experiment, cell)
                found, computed = found + was_there, computed + (not was_there)
                note = "found" if was_there else f"{cell.result['seconds']:.1f} s"
            except InternegError as error:
                cell.result = {"unavailable": " ".join(str(error).split())}
                note = "not available"
            self.tell(f"{experiment.id} {number}/{len(cells)} {where}: {note}")
        exhibit = self._exhibit(experiment, cells)
        reasons: dict[str, dict[str, None]] = {}
        for cell in cells:
            if "unavailable" in cell.result:
                reasons.setdefault(cell.result["unavailable"], {})[cell.entry.label] = None
        return {
            "experiment": experiment.id,
            "title": experiment.title,
            "source": experiment.source,
            "kind": experiment.kind,
            "substitute": self.options.substitute,
            "limit": self.options.limit,
            "short": len(cells) < self._full_size(experiment),
            "cells": [cell.coordinates | cell.result for cell in cells],
            "exhibit": exhibit,
            "unavailable": [
                why if len(who) == len(experiment.methods) else f"{', '.join(who)}: {why}"
                for why, who in reasons.items()
            ],
            "provenance": self._provenance(experiment, cells),
            "seconds": round(time.perf_counter() - started, 2),
            "found": found,
            "computed": computed,
        }

    def _full_size(self, experiment: Experiment) -> int:
        options = self.options
        runs = len(options.backbones or experiment.backbones)
        runs *= len(experiment.parts_for(options.substitute))
        runs *= len(experiment.methods) * len(options.seeds or experiment.seeds)
        return runs * len(experiment.points)

    @staticmethod
    def _named(cell: Cell) -> str:
        coordinates = cell.coordinates
        names = [Path(coordinates["backbone"]).stem, coordinates["part"], coordinates["point"]]
        return " · ".join([n for n in names if n] + [cell.entry.label, f"seed {cell.seed}"])

    # ---- one cell ------------------------------------------------------------------------

    def _key(self, experiment: Experiment, cell: Cell, evaluation: Evaluation, settings) -> dict:
        clip, bench = evaluation.backbone, evaluation.benchmark
        plain = as_mapping(settings)
        if "corpus" in plain:
            plain["corpus"] = corpus(settings.corpus).digest
        key = {
            "kind": "table" if experiment.kind == "sweep" else experiment.kind,
            "version": versions()["openood-interneg"],
            "weights": clip.digest,
            "precision": clip.precision,
            "preprocess": evaluation.encoder.preprocess.key(),
            "classes": list(bench.class_names),
            "test": bench.test.digest,
            "ood": [[images.name, images.digest] for images in bench.ood],
            "train": list_digest(bench.train) if bench.train is not None else None,
            "method": cell.entry.method,
            "settings": plain,
            "protocol": experiment.protocol,
            "batch_size": experiment.batch_size,
            "seed": cell.seed,
        }
        kind = get_method(cell.entry.method).features_of(settings)
        if kind != "image":
            key["input"] = kind_name(kind)
        if experiment.kind == "ratios":
            key["counts"] = cell.point.counts
        if experiment.kind == "timing":
            key |= {"images": experiment.images, "device": environment(clip.device)["device"]}
        return key

    def _cell(self, experiment: Experiment, cell: Cell) -> tuple[dict[str, Any], bool]:
        _, benchmark = self.benchmarks(cell.part)
        for images in (benchmark.test, *benchmark.ood):  # before weights are loaded
            _present(images)
        settings = self.settings(experiment, cell)
        evaluation = self.evaluation(cell.part, self.backbone(cell.backbone), experiment.preprocess)
        name = digest(self._key(experiment, cell, evaluation, settings))
        path = self.out / "cells" / f"{name}.json"
        if not self.options.fresh and (kept := self._kept(path)) is not None:
            return kept, True
        start, before = time.perf_counter(), dict(evaluation.results.seconds)
        run = {
            "table": self._scores,
            "sweep": self._scores,
            "errors": self._errors,
            "ratios": self._ratios,
            "timing": self._timing,
        }[experiment.kind]
        made = run(experiment, cell, evaluation, settings, name)
        seconds = time.perf_counter() - start
        result = {
            "cell": name,
            "sets": made,
            "near": [images.name for images in evaluation.benchmark.near],
            "settings": as_mapping(settings),
            "seconds": round(seconds, 3),
            "stages": _stages(before, evaluation.results.seconds, seconds),
        }
        if (scores := path.with_suffix(".npz")).is_file():
            result["scores"] = file_digest(scores)
        return write_sealed(path, result), False

    @staticmethod
    def _kept(path: Path) -> dict[str, Any] | None:
        """A finished cell as it was written, with its scores; None where it must be computed."""
        kept = read_sealed(path)
        if kept is None:
            return None
        if kept.get("cell") != path.stem:
            warnings.warn(f"{path} is another cell; it is not used", stacklevel=2)
            return None
        scores = path.with_suffix(".npz")
        if kept.get("scores") != (file_digest(scores) if "scores" in kept else None):
            warnings.warn(
                f"{scores} is damaged or missing; its cell is computed anew", stacklevel=2
            )
            return None
        return kept

    def _scores(self, experiment, cell, evaluation, settings, name) -> dict[str, Any]:
        before = len(evaluation.results.rows)
        rows = evaluation.run(
            cell.entry.method,
            settings,
            protocol=experiment.protocol,
            seed=cell.seed,
            batch_size=experiment.batch_size,
        )
        del evaluation.results.rows[before:]
        out, arrays = {}, {}
        for images in evaluation.benchmark.ood:
            row = next(row for row in rows if row["dataset"] == images.name)
            out[images.name] = {m: round(row[m], 6) for m in _metric_names(row)}
            run = evaluation.results.scores.pop((cell.entry.method, cell.seed, images.name))
            arrays[f"{images.name}.id"] = run.id_score.astype(np.float32)
            arrays[f"{images.name}.ood"] = run.ood_score.astype(np.float32)
        path = self.out / "cells" / f"{name}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return out

    def _detector(self, cell, evaluation, settings, live: bool = False):
        method = get_method(cell.entry.method)
        start = time.perf_counter()
        space = evaluation.source.space_for(method, settings)
        evaluation.results.seconds["text space"] += time.perf_counter() - start
        inverter = None
        if method.inverts:
            inverter = (
                live_inverter(evaluation.backbone, settings)
                if live
                else evaluation.inverter(settings)
            )
        return method.make(settings, inverter).fit(space), inverter

    def _errors(self, experiment, cell, evaluation, settings, name) -> dict[str, Any]:
        detector, inverter = self._detector(cell, evaluation, settings)
        id_set, ood_sets = evaluation.method_sets(get_method(cell.entry.method), settings)
        out = {}
        for ood in ood_sets:
            score, best_id, best_negative = _observed(
                detector, id_set, ood, cell.seed, experiment.batch_size
            )
            score = unit_score(detector, score)
            rates = error_rates(
                score[: len(id_set)], best_id[: len(id_set)], best_negative[: len(id_set)]
            )
            half = rates.gammas.tolist().index(0.5)
            out[ood.name] = {
                "Max-OOD": round(float(rates.max_ood[half]), 4),
                "Sum-OOD": round(float(rates.sum_ood[half]), 4),
                "max_ood": rates.max_ood.round(4).tolist(),
                "sum_ood": rates.sum_ood.round(4).tolist(),
            }
        _flush(inverter)
        return out

    def _ratios(self, experiment, cell, evaluation, settings, name) -> dict[str, Any]:
        detector, inverter = self._detector(cell, evaluation, settings)
        id_all, ood_sets = evaluation.method_sets(get_method(cell.entry.method), settings)
        out = {}
        for ood_all in ood_sets:
            counts = ratio_counts(cell.point.counts, len(id_all), len(ood_all))
            id_set = _subset(id_all, draw(len(id_all), counts[0], cell.seed))
            ood = _subset(ood_all, draw(len(ood_all), counts[1], cell.seed + 1000))
            run = run_mixed(detector, id_set, ood, cell.seed, experiment.batch_size)
            values = ood_metrics(run.id_score, run.ood_score, run.id_pred, id_set.labels)
            out[ood_all.name] = {k: round(v, 6) for k, v in values.items()} | {"counts": counts}
        _flush(inverter)
        return out

    def _timing(self, experiment, cell, evaluation, settings, name) -> dict[str, Any]:
        detector, inverter = self._detector(cell, evaluation, settings, live=True)
        kind = get_method(cell.entry.method).features_of(settings)
        spent = {"inversion": 0.0}
        if inverter is not None:
            detector.inverter = _clocked(inverter, spent, evaluation.backbone.device)
        out = {}
        for images in evaluation.benchmark.ood:
            test = evaluation.benchmark.test
            some = [_evenly(test, experiment.images // 2), _evenly(images, experiment.images // 2)]
            fresh = Encoder(
                evaluation.backbone,
                Store(None),
                preprocess=evaluation.encoder.preprocess,
                batch_size=self.options.encode_batch,
                workers=self.options.workers,
            )
            _wait(evaluation.backbone.device)
            start = time.perf_counter()
            sets = [
                FeatureSet(
                    part.name,
                    fresh.features(part, kind),
                    image_ids(part.paths),
                    part.labels,
                )
                for part in some
            ]
            _wait(evaluation.backbone.device)
            encoded = time.perf_counter()
            spent["inversion"] = 0.0
            run_mixed(detector, *sets, cell.seed, experiment.batch_size)
            _wait(evaluation.backbone.device)
            total, count = time.perf_counter() - encoded, sum(len(part) for part in some)
            out[images.name] = {
                "seconds": round((total + encoded - start) / count, 7),
                "reading and encoding": round((encoded - start) / count, 7),
                "scoring": round((total - spent["inversion"]) / count, 7),
                "inversion": round(spent["inversion"] / count, 7),
                "images": count,
            }
        return out

    # ---- what a page shows beside figures --------------------------------------------------

    def _exhibit(self, experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Any] | None:
        """Examples, mined words and the bank, for the first cell of the method named."""
        chosen = [
            c
            for c in cells
            if c.entry.label == experiment.exhibit and "unavailable" not in c.result
        ]
        if not chosen:
            return None
        cell = chosen[0]
        evaluation = self.evaluation(cell.part, self.backbone(cell.backbone), experiment.preprocess)
        settings = self.settings(experiment, cell)
        name = digest(["exhibit", self._key(experiment, cell, evaluation, settings)])
        path = self.out / "cells" / f"{name}.json"
        if self.options.fresh or read_sealed(path) is None:
            detector, inverter = self._detector(cell, evaluation, settings)
            exhibit = make_exhibit(
                evaluation,
                get_method(cell.entry.method),
                detector,
                settings,
                cell.seed,
                experiment.batch_size,
            )
            _flush(inverter)
            write_sealed(path, exhibit | {"of": cell.coordinates})
        return {"cell": name, "of": cell.coordinates}

    def _provenance(self, experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Any]:
        ran = [cell for cell in cells if "unavailable" not in cell.result]
        out: dict[str, Any] = {
            "protocol": experiment.protocol,
            "fpr": FPR,
            "batch_size": experiment.batch_size,
            "seeds": sorted({cell.seed for cell in cells}),
            "backbones": {},
            "benchmarks": {},
            "corpora": {},
            "settings": {},
            "seconds": {},
            "stages": {},
        } | environment(torch.device(self.options.device))
        for cell in ran:
            clip = self.backbone(cell.backbone)
            evaluation = self.evaluation(cell.part, clip, experiment.preprocess)
            out["backbones"][clip.name] = {
                "weights": clip.digest,
                "precision": clip.precision,
                "preprocess": evaluation.encoder.preprocess.key(),
            }
            out["benchmarks"][cell.part.name] = describe_benchmark(evaluation.benchmark)
            settings = dict(cell.result["settings"])
            if "corpus" in settings:
                words = describe_corpus(settings["corpus"])
                name = words["name"]
                if out["corpora"].get(name, words) != words:  # another file of this name
                    name = f"{name} ({words['digest'][:8]})"
                out["corpora"][name] = words
                settings["corpus"] = name
            settings.pop("seed", None)  # stands under seeds
            names = [cell.part.name, cell.point.label, cell.entry.label]
            out["settings"][" · ".join(n for n in names if n)] = settings
            spent = out["seconds"].get(cell.entry.label, 0.0) + cell.result["seconds"]
            out["seconds"][cell.entry.label] = round(spent, 3)
            for stage, value in cell.result.get("stages", {}).items():
                out["stages"][stage] = round(out["stages"].get(stage, 0.0) + value, 3)
        return out


def _present(images) -> None:
    """Raises BenchmarkError with the first missing file; a list of 50,000 is not printed."""
    try:
        _ = images.digest
    except OSError as error:
        raise BenchmarkError(
            f"an image of '{images.name}' is not there: {os.fspath(error.filename or '')}; point "
            "--data-root to the folder that holds OpenOOD's data"
        ) from error


def _stages(before: Mapping, after: Mapping, total: float) -> dict[str, float]:
    """Seconds by stage that were added, and the rest of the total."""
    out: dict[str, float] = {}
    for stage, value in after.items():
        name = stage.split(":")[0]
        out[name] = out.get(name, 0.0) + value - before.get(stage, 0.0)
    out["other"] = max(0.0, total - sum(out.values()))
    return {name: round(value, 3) for name, value in out.items()}


def _metric_names(row: Mapping[str, Any]) -> list[str]:
    return [k for k, v in row.items() if isinstance(v, float)]


def _evenly(images, count: int):
    count = min(count, len(images))
    return images.subset(np.linspace(0, len(images) - 1, count).round().astype(int))


def _subset(features: FeatureSet, at: np.ndarray) -> FeatureSet:
    rows = torch.from_numpy(at)
    return FeatureSet(
        features.name, features.features[..., rows, :], features.keys[rows], features.labels[at]
    )


def _flush(inverter) -> None:
    if inverter is not None:
        inverter.flush()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _clocked(inverter, spent: dict[str, float], device: torch.device):
    def timed(features, keys):
        _wait(device)
        start = time.perf_counter()
        rows = inverter(features, keys)
        _wait(device)
        spent["inversion"] += time.perf_counter() - start
        return rows

    return timed


def _observed(detector, id_set, ood, seed: int, batch_size: int):
    """Scores and highest ID and negative logits, each (n_id + n_ood,), in the lists' order."""
    order = mixed_order(len(id_set), len(ood), seed)
    at = torch.from_numpy(order)
    features = torch.cat([id_set.features, ood.features], dim=-2)[..., at, :]
    keys = torch.cat([id_set.keys, ood.keys])[at]
    detector.reset()
    parts: list[list[np.ndarray]] = []
    for begin in range(0, len(keys), batch_size):
        rows = slice(begin, begin + batch_size)
        score = detector.step(features[..., rows, :], keys[rows]).score
        id_logits, negative_logits = text_logits(detector, features[..., rows, :])
        parts.append([t.cpu().numpy() for t in (score, id_logits.amax(1), _top(negative_logits))])
    back = np.argsort(order)
    return tuple(np.concatenate(column)[back] for column in zip(*parts, strict=True))


def _top(values: torch.Tensor) -> torch.Tensor:
    if values.shape[1] == 0:
        return torch.full(values.shape[:1], -torch.inf)
    return values.amax(dim=1)


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
    root = options.corpora or (options.data_root or Path("data")) / "corpus"
    for name, wanted in experiment.corpora.items():
        there = (Path(root) / wanted["file"]).is_file()
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

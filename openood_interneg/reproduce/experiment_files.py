"""Reads experiments: each table or figure is one YAML file.

A file under configs/experiments says what is run (parts, backbones, methods, points of a sweep,
seeds), how the outcome is laid out, and what the paper prints. Nothing here knows a particular
table: adding an experiment needs no code.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openood_interneg.data.benchmark_files import configs_root
from openood_interneg.data.corruptions import ViewError, parse_view
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.streams import check_stream
from openood_interneg.reproduce.experiment import (
    COLUMNS,
    COORDINATES,
    KINDS,
    SETS,
    Experiment,
    Part,
    Point,
    Published,
    Variant,
)
from openood_interneg.settings import SettingsError, docs_page, shown
from openood_interneg.vlm.text_files import parse_yaml, read_text


def experiments_root() -> Path:
    """Folder of the experiments' YAML files."""
    return configs_root() / "experiments"


def list_experiments() -> list[str]:
    """Names, tables before figures, by number."""
    names = [path.stem for path in experiments_root().glob("*.yml")]

    def order(name: str) -> tuple[str, int, str]:
        kind = name.rstrip("0123456789_")
        digits = name[len(kind) :].split("_")[0]
        return ("0" if kind == "table" else "1" + kind, int(digits or 0), name)

    return sorted(names, key=order)


def load_experiment(source: str | Path) -> Experiment:
    """Reads an experiment by name or from a YAML file of your own.

    Raises:
        SettingsError: unknown name, unreadable YAML, unknown or missing keys, bad values.
    """
    text = str(source)
    if text.endswith((".yml", ".yaml")):
        path = Path(text).expanduser()
    else:
        path = experiments_root() / f"{text}.yml"
        if not path.is_file():
            near = difflib.get_close_matches(text, list_experiments(), n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(list_experiments())
            raise SettingsError(f"unknown experiment '{text}'; {hint}known: {known}")
    try:
        text = read_text(path, SettingsError)
        block = parse_yaml(text, path.name, SettingsError)
        return replace(_experiment(path.stem, block), text=text)
    except SettingsError as error:
        named = path.name in str(error)
        raise SettingsError(str(error) if named else f"{path.name}: {error}") from error
    except ViewError as error:
        raise SettingsError(f"{path.name}: {error}") from error
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise SettingsError(f"{path} is not an experiment: {reason}") from error


def _experiment(name: str, block: dict[str, Any]) -> Experiment:
    block = dict(block)
    metrics = tuple(block.get("metrics", ("AUROC", "FPR@95")))
    made: dict[str, Any] = {
        "id": name,
        "parts": tuple(Part(**part) for part in block.pop("parts")),
        "methods": tuple(Variant(**variant) for variant in block.pop("methods")),
        "published": tuple(
            row for group in block.pop("published", []) for row in _published(group, metrics)
        ),
    }
    for key in ("points", "short_points"):
        if key in block:
            made[key] = tuple(p for item in block.pop(key) for p in _points(item))
    for key in ("backbones", "seeds", "rows", "columns", "metrics", "notes"):
        if key in block:
            made[key] = tuple(block.pop(key))
    experiment = Experiment(**made, **block)
    _check(experiment)
    return experiment


def _published(group: Mapping[str, Any], metrics: Sequence[str]) -> list[Published]:
    """Rows of one block: `columns` names what the numbers of a row stand for, in order."""
    out = []
    order = tuple(group.get("metrics", metrics))
    for row in group["rows"]:
        labels = tuple(str(label) for label in row["row"])
        numbers, width = list(row["values"]), len(order)
        columns = group["columns"]
        if len(numbers) != width * len(columns):
            raise ValueError(f"published row {labels} has {len(numbers)} numbers")
        values = {
            str(column): dict(zip(order, numbers[i * width : (i + 1) * width], strict=True))
            for i, column in enumerate(columns)
        }
        fpr = row.get("fpr", group.get("fpr", ""))
        rates = [figures.get("FPR@95") for figures in values.values()]
        if fpr not in ("ood", "id") and (fpr or any(rate is not None for rate in rates)):
            raise ValueError(
                f"published row {labels} has fpr {shown(fpr)}; say which class is positive in its "
                f"FPR@95, fpr: ood or fpr: id ({docs_page('protocols.md')})"
            )
        out.append(Published(labels, values, group.get("group", ""), fpr, group["source"]))
    return out


def _points(item: Mapping[str, Any]) -> list[Point]:
    if "values" not in item:
        item = dict(item)
        if "counts" in item:
            item["counts"] = tuple(item["counts"])
        return [Point(**item)]
    return [
        Point(f"{item['sweep']} = {value}", item["sweep"], value, {item["setting"]: value})
        for value in item["values"]
    ]


def _check(experiment: Experiment) -> None:
    def one_of(value: str, known: Sequence[str], what: str) -> None:
        if value not in known:
            raise SettingsError(f"{what} is {value!r}; choose one of {', '.join(known)}")

    one_of(experiment.kind, KINDS, "kind")
    for row in experiment.rows:
        one_of(row, COORDINATES, "rows")
    for column in experiment.columns:
        one_of(column, COLUMNS, "columns")
    for part in experiment.parts:
        if not isinstance(part.sets, str) or not part.sets:
            one_of(part.sets, (*SETS, "the name of a set"), "sets")
    for variant in experiment.methods:
        get_method(variant.method)
    for part in experiment.parts:
        for method in part.settings:
            get_method(method)
    for point in (*experiment.points, *experiment.short_points):
        check_stream(point.stream)
        if point.shift:
            parse_view(point.shift)

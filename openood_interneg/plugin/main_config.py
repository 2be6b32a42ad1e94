"""The merged config of `python -m openood_interneg.main`: files, options and references."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from openood_interneg.data.benchmark_files import configs_root, data_folder, resolve_path
from openood_interneg.plugin.network import (
    known_class_names,
    name_class_names,
    resolve_class_names,
)
from openood_interneg.settings import SettingsError, shown

SPLITS = {"dataset": ("train", "val", "test"), "ood_dataset": ("val", "csid", "nearood", "farood")}


def data_blocks(
    config: MutableMapping[str, Any],
) -> Iterator[tuple[str, MutableMapping[str, Any], list[Any]]]:
    """(name, block, the blocks of its sets) of the data blocks of a config."""
    for name, known in SPLITS.items():
        block = config.get(name)
        if not isinstance(block, MutableMapping):
            continue
        sets: list[Any] = []
        for split in known:
            part = block.get(split)
            if isinstance(part, MutableMapping):
                members = part.get("datasets")
                sets += [part] if members is None else [part.get(m) for m in members]
        yield name, block, [part for part in sets if isinstance(part, MutableMapping)]


def packaged(name: str) -> Path:
    """A config file; `configs/...` that is not on disk is this package's of the same name."""
    path = Path(name)
    inside = configs_root().joinpath(*path.parts[1:])
    if path.parts[:1] == ("configs",) and not path.is_file() and inside.is_file():
        return inside
    return path


def locate(config: MutableMapping[str, Any], file: Path, data_root: str | None) -> None:
    """Resolves the paths of a dataset YAML as `interneg eval --data-root` does."""
    root = data_folder(file.absolute(), data_root)
    for _, _, sets in data_blocks(config):
        for part in sets:
            for key in ("data_dir", "imglist_pth"):
                if isinstance(part.get(key), str):
                    part[key] = str(resolve_path(part[key], root).absolute())


def complete(config: Any) -> None:
    """Fills in what OpenOOD's loaders need and a short dataset YAML leaves out."""
    for name, block, sets in data_blocks(config):
        defaults = {
            "name": config.dataset.name,
            "batch_size": 256,
            "shuffle": False,
            "dataset_class": "ImglistDataset",
            "pre_size": 224,
            "image_size": 224,
            "interpolation": "bicubic",
            "normalization_type": "clip",
            "num_workers": "@{num_workers}",
            "num_gpus": "@{num_gpus}",
            "num_machines": "@{num_machines}",
            "split_names": [split for split in SPLITS[name] if split in block],
        }
        for key, value in defaults.items():
            if key not in block:
                block[key] = value
        for part in sets:
            for key in ("dataset_class", "batch_size", "shuffle"):
                if key not in part:
                    part[key] = defaults[key]


def apply(config: Any, options: Sequence[str]) -> None:
    """OpenOOD's `--block.key value` and `--block.key=value`, with its own reading of values.

    Raises:
        SettingsError: an option that the config files do not have, or a value of another kind.
    """
    rest = list(options)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or len(option) < 3:
            raise SettingsError(f"{shown(option)} is no option; options are --block.key value")
        if "=" not in option and not rest:
            raise SettingsError(f"the option {option} has no value")
        words = [option] if "=" in option else [option, rest.pop(0)]
        key = option[2:].partition("=")[0]
        if key not in config:
            known = list(config.all_keys(only_leaf=False))
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean --{near[0]}?" if near else "add it to a YAML file first"
            raise SettingsError(f"no file of --config has {shown(key)}; {hint}")
        try:
            config.parse_args(words)
        except Exception as error:  # OpenOOD evaluates a type behind a colon
            kind = type(config[key]).__name__
            raise SettingsError(
                f"{' '.join(words)}: the value is not of the kind that the YAML has ({kind}): "
                f"{type(error).__name__}: {error}"
            ) from error


def announce_class_names(config: Any, files: Sequence[Path]) -> None:
    """Lets `network.class_names: '@{dataset.name}'` find what `dataset.class_names` says: a known
    set, a list, or a text file beside one of the config files."""
    source = config.dataset.class_names
    if source is not None:
        if isinstance(source, str):
            beside = [file.parent / source for file in files]
            source = next((str(path) for path in beside if path.is_file()), source)
        name_class_names(config.dataset.name, resolve_class_names(source))
    names = known_class_names(config.dataset.name)
    for block in (config.dataset, config.get("ood_dataset")):
        if names is not None and block is not None and "num_classes" not in block:
            block.num_classes = len(names)


def tell_backbones_apart(config: Any) -> None:
    """Puts the backbone into `exp_name` as one word; a name or a path may hold slashes."""
    reference = "'@{network.backbone}'"
    if isinstance(config.exp_name, str) and reference in config.exp_name:
        network = config.network
        words = [network.backbone, network.pretrained_tag, network.precision]
        kept = [str(word) for word in words if word not in (None, "", "none", "fp32")]
        word = re.sub(r"[^\w.+-]+", "-", "-".join(kept)).strip("-")
        config.exp_name = config.exp_name.replace(reference, word[-100:])


def resolve(config: Any) -> None:
    """OpenOOD's `@{block.key}`.

    Raises:
        SettingsError: a reference to what no file has.
    """
    try:
        config.parse_refs()
    except KeyError as error:
        raise SettingsError(
            f"a file of --config refers to @{{{error.args[0]}}}, which none of them has"
        ) from error
    for key in ("output_dir", "exp_name", "num_gpus", "num_machines", "machine_rank"):
        if key not in config:
            raise SettingsError(f"no file of --config has {key}; add configs/pipelines/mixed.yml")


def plain(config: Any) -> Any:
    """OpenOOD's Config as plain mappings."""
    blocks = {k: plain(v) if isinstance(v, MutableMapping) else v for k, v in config.items()}
    if "class_names" in blocks.get("dataset", {}):  # they were found beside a file already
        blocks["dataset"]["class_names"] = list(known_class_names(config.dataset.name) or ())
    return blocks

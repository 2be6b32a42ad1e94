"""OpenOOD's main.py with this package registered: `python -m openood_interneg.main --config ...`.

Same options, same pipelines, same output. Three things are made easier: a config that is not on
disk is looked for among this package's (`configs/...`), relative paths of a dataset YAML mean what
they mean to `interneg eval --data-root`, and the short dataset YAMLs that it takes are completed.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from openood_interneg.cli.console import guarded
from openood_interneg.data.benchmark import (
    BenchmarkError,
    check_images,
    configs_root,
    data_folder,
    place,
    read_benchmark,
)
from openood_interneg.plugin.benchmarks import check_openood_reads
from openood_interneg.plugin.classes import compare_names
from openood_interneg.plugin.device import following
from openood_interneg.plugin.network import (
    known_class_names,
    name_class_names,
    resolve_class_names,
)
from openood_interneg.plugin.postprocessors import check_search
from openood_interneg.plugin.register import NETWORK, check_main_names, register
from openood_interneg.settings import SettingsError, shown
from openood_interneg.vlm.text_files import read_text, read_yaml

SPLITS = {"dataset": ("train", "val", "test"), "ood_dataset": ("val", "csid", "nearood", "farood")}


def run(config: Any) -> None:
    """Runs the pipeline of a merged config; the entry of every process that OpenOOD launches."""
    register()
    from openood.pipelines import get_pipeline

    with following("cpu") if not torch.cuda.is_available() else contextlib.nullcontext():
        get_pipeline(config).run()


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line, with OpenOOD's order: merge the files, apply the options, resolve `@{}`.

    What can be wrong with files, names, options and data is said in one message before any work.
    """
    parser = argparse.ArgumentParser(prog="python -m openood_interneg.main")
    parser.add_argument("--config", nargs="+", required=True, metavar="YAML")
    parser.add_argument(
        "--data_root",
        help="folder that relative paths, and a leading ./data in them, mean; by default ./data, "
        "and for a dataset YAML of your own its folder",
    )
    given, options = parser.parse_known_args(arguments)

    register()
    from openood.utils import Config, launch
    from openood.utils.config import merge_configs

    parts = []
    for name in given.config:
        path = packaged(name)
        part = read_yaml(path, SettingsError)
        locate(part, path, given.data_root)
        parts.append(Config(part))
    config = merge_configs(*parts)
    if "dataset" not in config or "name" not in config.dataset:
        raise SettingsError("no file of --config has a block dataset with a name")
    complete(config)
    apply(config, options)
    announce_class_names(config, [packaged(name) for name in given.config])
    tell_backbones_apart(config)
    resolve(config)
    check(config)
    config.output_dir = str(Path(config.output_dir, config.exp_name))
    launch(
        run,
        config.num_gpus,
        num_machines=config.num_machines,
        machine_rank=config.machine_rank,
        dist_url="auto",
        args=(config,),
    )


def packaged(name: str) -> Path:
    """A config file; `configs/...` that is not on disk is this package's of the same name."""
    path = Path(name)
    inside = configs_root().joinpath(*path.parts[1:])
    if path.parts[:1] == ("configs",) and not path.is_file() and inside.is_file():
        return inside
    return path


def _blocks(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], list[Any]]]:
    """(name, block, the blocks of its sets) of the data blocks of a config."""
    for name, known in SPLITS.items():
        block = config.get(name)
        if not isinstance(block, Mapping):
            continue
        sets = []
        for split in known:
            part = block.get(split)
            if isinstance(part, Mapping):
                members = part.get("datasets")
                sets += [part] if members is None else [part.get(m) for m in members]
        yield name, block, [part for part in sets if isinstance(part, Mapping)]


def locate(config: Mapping[str, Any], file: Path, data_root: str | None) -> None:
    """Makes the paths of a dataset YAML what `interneg eval --data-root` makes of them."""
    root = data_folder(file.absolute(), data_root)
    for _, _, sets in _blocks(config):
        for part in sets:
            for key in ("data_dir", "imglist_pth"):
                if isinstance(part.get(key), str):
                    part[key] = str(place(part[key], root).absolute())


def complete(config: Any) -> None:
    """Fills in what OpenOOD's loaders want and a short dataset YAML leaves out."""
    for name, block, sets in _blocks(config):
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
        names = resolve_class_names(source)
        name_class_names(config.dataset.name, names)
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


def check(config: Any) -> None:
    """Looks up every name and looks for the data, where a config evaluates.

    Raises:
        SettingsError: an unknown method, network, evaluator, preprocessor, or two backbones that
            would share a folder. BenchmarkError: data that is not there, or no set for `fsood`.
        LoaderError: `APS_mode` without validation images. ClassesError: the network's class names
            are not those of the benchmark.
    """
    check_main_names(config)
    if not config.get("pipeline") or not str(config.pipeline.name).startswith("test_ood"):
        return
    ood = config.get("ood_dataset") or {}
    fsood = config.get("evaluator") and config.evaluator.ood_scheme == "fsood"
    if fsood and "csid" not in (ood.get("split_names") or ()):
        raise BenchmarkError(
            f"evaluator.ood_scheme is fsood, and the benchmark '{config.dataset.name}' has no "
            "ood_dataset.csid; add its covariate-shifted ID sets (and 'csid' to split_names), or "
            "take ood_scheme: ood"
        )
    network = config.get("network")
    if network and network.name == NETWORK:
        words = resolve_class_names(network.class_names)
        compare_names(words, len(words), config.dataset.name, config.dataset.num_classes)
    method = config.get("postprocessor")
    if method and method.APS_mode:
        check_search(method.name, "val" in config.dataset, "val" in ood)
    names = known_class_names(config.dataset.name)
    if ood and names is not None:
        with_csid = "csid" in (ood.get("split_names") or ())
        benchmark = read_benchmark(plain(config), Path("--config"), "", csid=with_csid)
        benchmark.check()
        for images in benchmark.csid if fsood else ():
            check_images(images)
        for _, _, sets in _blocks(config):
            for part in sets:
                check_openood_reads(Path(part["imglist_pth"]))
    refuse_another_network(config)


def plain(config: Any) -> Any:
    """OpenOOD's Config as plain mappings."""
    blocks = {k: plain(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    if "class_names" in blocks.get("dataset", {}):  # they were found beside a file already
        blocks["dataset"]["class_names"] = list(known_class_names(config.dataset.name))
    return blocks


def refuse_another_network(config: Any) -> None:
    """Keeps the results of two networks apart whatever `exp_name` a pipeline file has.

    Raises:
        SettingsError: the output folder holds the results of another network.
    """
    folder = Path(config.output_dir, config.exp_name)
    kept = folder / "config.yml"
    if not config.save_output or not kept.is_file() or not config.get("network"):
        return
    text = read_text(kept, SettingsError)
    for key in ("backbone", "pretrained_tag", "precision"):
        before = re.search(rf"^\s+{key}: (.*)$", text, re.MULTILINE)
        now = str(config.network.get(key))
        if before is not None and before[1].strip("'\"") != now:
            raise SettingsError(
                f"{folder} holds results of network.{key} {before[1]}, and this run has {now}; put "
                "'@{network.backbone}' into exp_name, give another --mark, or move the folder away"
            )


if __name__ == "__main__":
    main()

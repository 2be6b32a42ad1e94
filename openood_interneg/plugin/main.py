"""OpenOOD's main.py with this package registered: `python -m openood_interneg.main --config ...`.

Same options, same pipelines, same output. Three things are made easier: a config that is not on
disk is looked for among this package's (`configs/...`), relative paths of a dataset YAML mean what
they mean to `interneg eval --data-root`, and the short dataset YAMLs that it takes are completed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any

import torch

from openood_interneg.data.benchmark_yaml import parse_spec
from openood_interneg.data.image_lists import BenchmarkError, check_images
from openood_interneg.plugin.benchmarks import check_openood_reads
from openood_interneg.plugin.builders import NETWORK
from openood_interneg.plugin.classes import compare_names
from openood_interneg.plugin.device import redirect_cuda
from openood_interneg.plugin.main_config import (
    announce_class_names,
    apply,
    complete,
    data_blocks,
    locate,
    packaged,
    plain,
    resolve,
    tell_backbones_apart,
)
from openood_interneg.plugin.network import (
    known_class_names,
    resolve_class_names,
)
from openood_interneg.plugin.register import check_main_names, register
from openood_interneg.plugin.sweep import check_search
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.text_files import read_text, read_yaml


def run(config: Any) -> None:
    """Runs the pipeline of a merged config; the entry of every process that OpenOOD launches."""
    register()
    from openood.pipelines import get_pipeline

    with redirect_cuda("cpu") if not torch.cuda.is_available() else contextlib.nullcontext():
        get_pipeline(config).run()


def main(arguments: list[str] | None = None) -> None:
    """The command line, in OpenOOD's order: merge the files, apply the options, resolve `@{}`.

    Files, names, options and data are checked before any work.

    Raises:
        InternegError: one of them is wrong; `openood_interneg.main` prints the message.
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
        benchmark = parse_spec(plain(config), Path("--config")).read("", csid=with_csid)
        benchmark.check()
        for images in benchmark.csid if fsood else ():
            check_images(images)
        for _, _, sets in data_blocks(config):
            for part in sets:
                check_openood_reads(Path(part["imglist_pth"]))
    refuse_another_network(config)


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

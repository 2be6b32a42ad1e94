"""Every YAML in configs/: well-formed for OpenOOD's Config, and every key known."""

from pathlib import Path

import pytest
import yaml
from openood_standin import REAL_MISSING

from openood_interneg.data.benchmark_files import configs_root
from openood_interneg.data.classnames import KNOWN_CLASS_NAMES
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.plugin.benchmarks import read_entry, shipped
from openood_interneg.plugin.network import resolve_class_names
from openood_interneg.plugin.postprocessors import postprocessor_class

# Experiments are ours, not OpenOOD's; tests/reproduce looks after them.
FILES = sorted(path for path in configs_root().rglob("*.y*ml") if "experiments" not in path.parts)
KNOWN = {
    "dataset": {
        *("name", "class_names", "num_classes", "pre_size", "image_size", "interpolation"),
        *("normalization_type", "num_workers", "num_gpus", "num_machines", "split_names"),
        *("train", "val", "test"),
    },
    "ood_dataset": {
        *("name", "num_classes", "dataset_class", "batch_size", "shuffle", "num_workers"),
        *("num_gpus", "num_machines", "split_names", "val", "nearood", "farood"),
    },
    "network": {
        *("name", "backbone", "pretrained_tag", "class_names", "prompt", "precision"),
        *("num_classes", "num_gpus"),
    },
    "preprocessor": {"name", "variant"},
    "pipeline": {"name"},
    "evaluator": {"name", "protocol", "batch_size", "ood_scheme"},
    "recorder": {"save_scores", "save_csv"},
    "postprocessor": {"name", "APS_mode", "postprocessor_args", "postprocessor_sweep"},
}
TOP = {
    *("exp_name", "output_dir", "save_output", "merge_option", "mark", "seed", "num_gpus"),
    *("num_workers", "num_machines", "machine_rank"),
}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def leaves(block, trail=()):
    for key, value in block.items():
        yield (*trail, key), value
        if isinstance(value, dict):
            yield from leaves(value, (*trail, key))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(configs_root())))
def test_file_fits_openoods_config(path):
    assert path.suffix == ".yml"  # OpenOOD's Config takes no other
    for trail, value in leaves(read(path)):
        key = trail[-1]
        assert "." not in key and not key.startswith(("parse_", "all_"))
        # OpenOOD's Config reads `config.update` as its own method; settings are read as items.
        assert not hasattr(dict, key) or trail[-2:-1] == ("postprocessor_args",)
        assert value is not None, f"{trail}: a null cannot be set on the command line"
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                continue
            raise AssertionError(f"{trail}: PyYAML reads {value} as text; write 1.0e-4")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(configs_root())))
def test_every_key_is_known(path):
    for name, block in read(path).items():
        if isinstance(block, dict):
            assert set(block) <= KNOWN[name]
        else:
            assert name in TOP


def test_every_method_has_its_yaml():
    have = {path.stem for path in (configs_root() / "postprocessors").glob("*.yml")}
    assert {"interneg", "interneg_negatives_only", "neglabel", "mcm"} <= have
    assert have <= {method.name for method in list_methods()}


@pytest.mark.parametrize(
    "path", sorted((configs_root() / "postprocessors").glob("*.yml")), ids=lambda p: p.stem
)
def test_settings_are_the_methods(path):
    config = read(path)
    block = config["postprocessor"]
    assert block["name"] == path.stem
    made = postprocessor_class(block["name"])(config)  # unknown keys and values are errors
    for name, value in (block.get("postprocessor_args") or {}).items():
        assert getattr(made.settings, name) == value
    if REAL_MISSING is None:  # the same through OpenOOD's Config
        from openood.utils import Config

        assert postprocessor_class(block["name"])(Config(str(path))).settings == made.settings
    assert list(made.args_dict) == list(block.get("postprocessor_sweep") or {})
    # A whole number in the YAML where a float belongs could not be changed on the command line.
    kinds = get_method(path.stem).settings.__annotations__
    for name, value in (block.get("postprocessor_args") or {}).items():
        if kinds.get(name) == "float":
            assert isinstance(value, float), f"{name}: write {float(value)}"


def test_defaults_of_interneg_are_in_its_yaml():
    block = read(configs_root() / "postprocessors" / "interneg.yml")["postprocessor"]
    method = get_method("interneg")
    assert method.make_settings(block["postprocessor_args"]) == method.make_settings()
    wanted = {"beta_list", "bank_capacity_list", "num_negatives_list", "tau_list"}
    assert set(block["postprocessor_sweep"]) == wanted


@pytest.mark.parametrize("name", shipped())
def test_benchmarks(name):
    entry = read_entry(name)
    assert entry.name == name and len(entry.class_names) == entry.info["num_classes"]
    assert all(not path.startswith(("/", ".")) for path in entry.image_lists())
    if name in KNOWN_CLASS_NAMES:
        assert resolve_class_names(name) == entry.class_names


def test_the_benchmarks_of_the_paper_are_there():
    assert {"cifar10", "cifar100", "imagenet200", "imagenet", "imagenet_four_ood"} <= set(shipped())

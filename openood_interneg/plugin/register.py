"""Making our names known wherever OpenOOD selects something by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision.transforms import InterpolationMode

from openood_interneg.data.benchmark_files import configs_root
from openood_interneg.plugin.benchmarks import (
    Registered,
    add_to_tables,
    checked_setup,
    read_entry,
    shipped,
)
from openood_interneg.plugin.builders import NETWORK, PREPROCESSOR, ClipPreprocessor, build_network
from openood_interneg.plugin.openood import OpenOODError, load_openood
from openood_interneg.plugin.patching import (
    bring_preprocessing,
    check_name,
    insert,
    replace_function,
    wrap_factory,
)
from openood_interneg.plugin.postprocessors import DetectorPostprocessor, all_postprocessors
from openood_interneg.plugin.stored_evaluators import keep_features, keep_features_of_pipelines
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.preprocess import CLIP_MEAN, CLIP_STD

EVALUATOR = "mixed"
INTERPOLATION = "bicubic"

_benchmarks: dict[str, Registered] = {}


def register() -> None:
    """Makes methods, network, evaluator, preprocessing and benchmarks known to OpenOOD.

    May be called any number of times; what is there already stays. Afterwards

    - `postprocessor_name` (evaluation API) and `postprocessor.name` (main.py) take every method
      of this package, among them `mcm`, which OpenOOD ships and registers nowhere;
    - `network.name` takes `clip_zeroshot_interneg`, `evaluator.name` takes `mixed`,
      `preprocessor.name` and `dataset.normalization_type` take `clip`, `dataset.interpolation`
      takes `bicubic`;
    - `Evaluator(net, id_name)` takes the shipped benchmarks, e.g. `imagenet_four_ood`; the user's
      own are added by `register_benchmark`.

    Raises:
        OpenOODMissing: OpenOOD is not installed; the message has the command.
        OpenOODError: OpenOOD cannot be imported.
    """
    load_openood()
    import openood.datasets as datasets
    import openood.evaluation_api.datasets as api_datasets
    import openood.evaluation_api.postprocessor as api_postprocessor
    import openood.evaluators.utils as evaluators
    import openood.networks.utils as networks
    import openood.postprocessors.utils as postprocessors
    import openood.preprocessors.transform as transform
    import openood.preprocessors.utils as preprocessors
    from openood.postprocessors import BasePostprocessor

    if not issubclass(DetectorPostprocessor, BasePostprocessor):
        raise OpenOODError(
            "openood_interneg.plugin was imported before OpenOOD could be found, so its classes "
            "are not OpenOOD's; put OpenOOD on the path first and start again"
        )
    methods = all_postprocessors()
    for name, cls in methods.items():
        insert(api_postprocessor.postprocessors, name, cls, "openood.evaluation_api")
    insert(transform.normalization_dict, PREPROCESSOR, [list(CLIP_MEAN), list(CLIP_STD)], "")
    insert(transform.interpolation_modes, INTERPOLATION, InterpolationMode.BICUBIC, "")

    wrap_factory(postprocessors, "get_postprocessor", lambda c: c.postprocessor.name, methods)
    wrap_factory(networks, "get_network", lambda c: c.name, {NETWORK: build_network})
    wrap_factory(
        evaluators, "get_evaluator", lambda c: c.evaluator.name, {EVALUATOR: _mixed_evaluator}
    )
    wrap_factory(
        preprocessors,
        "get_preprocessor",
        lambda c: c.preprocessor.name,
        {PREPROCESSOR: lambda config, split=None: ClipPreprocessor(config)},
    )
    replace_function(api_postprocessor, "get_postprocessor", _with_packaged_yaml)
    import openood.evaluation_api.evaluator as api_evaluator

    bring_preprocessing(api_evaluator.Evaluator)
    keep_features(api_evaluator.Evaluator, api_datasets)
    keep_features_of_pipelines(datasets)
    replace_function(
        api_datasets, "data_setup", lambda original: checked_setup(original, _benchmarks)
    )
    for name in shipped():
        if name not in api_datasets.DATA_INFO:
            _add(read_entry(name))


def register_benchmark(
    source: str | Path, data_root: str | Path | None = None, *, replace: bool = False
) -> str:
    """Makes a benchmark of your own known to OpenOOD's evaluation API.

    Args:
        source: a dataset YAML, the same that `interneg eval --bench` takes.
        data_root: what its relative paths are relative to, and what a leading `./data` in them
            stands for; by default the file's folder.
        replace: take the place of another benchmark that was registered under the name.

    Returns:
        The name to pass as `id_name`.

    Raises:
        BenchmarkError: unreadable or incomplete file.
        SettingsError: the name belongs to another benchmark.
    """
    register()
    import openood.evaluation_api.datasets as api_datasets

    entry = read_entry(source, data_root)
    if entry.name in api_datasets.DATA_INFO and entry.name not in _benchmarks:
        raise SettingsError(
            f"OpenOOD has a benchmark '{entry.name}' of its own; give yours another dataset.name"
        )
    present = _benchmarks.get(entry.name)
    # A shipped name with a data_root is the shipped benchmark, at another place.
    if present and not replace and str(source) not in shipped() and not entry.same(present):
        raise SettingsError(
            f"'{entry.name}' is registered already, from {present.origin} with other images or "
            f"classes than {entry.origin} has; give one of them another dataset.name, or pass "
            "replace=True"
        )
    _add(entry)
    return entry.name


def config_root() -> str:
    """Folder of this package's YAML files, to pass to OpenOOD's `Evaluator` as `config_root`."""
    return str(configs_root())


def _add(entry: Registered) -> None:
    import openood.evaluation_api.datasets as datasets
    import openood.evaluation_api.preprocessor as preprocessor
    import openood.postprocessors.info as info

    _benchmarks[entry.name] = entry
    add_to_tables(entry, datasets, preprocessor, info)


def check_main_names(config: Any) -> None:
    """Looks up, before any work, what the pipeline of a `main.py` config will build by name.

    Raises:
        SettingsError: an unknown network, evaluator, preprocessor or postprocessor.
    """
    register()
    for what in ("postprocessor", "network", "evaluator", "preprocessor"):
        factory = getattr(sys.modules[f"openood.{what}s.utils"], f"get_{what}")
        name = config.get(what) and config[what].name
        if name is not None:
            check_name(what, name, factory._interneg_known)


def _with_packaged_yaml(original: Callable) -> Callable:
    """The evaluation API's factory, which would download the missing YAML of any name.

    A YAML of ours is taken from the package, one of OpenOOD's from its checkout.
    """

    def get_postprocessor(config_root_: str, postprocessor_name: str, id_data_name: str) -> Any:
        import openood
        from openood.evaluation_api.postprocessor import postprocessors

        check_name("postprocessor", postprocessor_name, postprocessors)
        relative = Path("postprocessors", f"{postprocessor_name}.yml")
        if not Path(config_root_, relative).is_file():
            checkout = Path(openood.__file__).parents[1] / "configs"
            found = [r for r in (Path(config_root()), checkout) if Path(r, relative).is_file()]
            if found:
                config_root_ = str(found[0])
            elif postprocessor_name in all_postprocessors() or config_root_ == config_root():
                raise SettingsError(
                    f"no {relative} in {config_root_}; point config_root to a folder that holds it "
                    "(OpenOOD's checkout has one, configs)"
                )
        return original(config_root_, postprocessor_name, id_data_name)

    return get_postprocessor


def _mixed_evaluator(config: Any) -> Any:
    from openood_interneg.plugin.main_evaluator import MixedOODEvaluator

    return MixedOODEvaluator(config)


def find_benchmark(name: str) -> Registered | None:
    """A benchmark of ours that is in OpenOOD's tables."""
    return _benchmarks.get(name)

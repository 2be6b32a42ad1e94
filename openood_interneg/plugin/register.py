"""Making our names known wherever OpenOOD selects something by name.

OpenOOD keeps its names in dictionaries: some of them in modules, where entries can be added, some
inside functions, which other modules have imported by name. Those functions are wrapped, and every
module that holds the original is given the wrapper. OpenOOD's own names stay as they are.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from openood_interneg.data.benchmark import configs_root
from openood_interneg.plugin.benchmarks import (
    Registered,
    add_to_tables,
    checked_setup,
    read_entry,
    shipped,
)
from openood_interneg.plugin.network import (
    ClipZeroShot,
    as_clip,
    inner_clip,
    known_class_names,
    resolve_class_names,
)
from openood_interneg.plugin.openood import OpenOODError, load_openood
from openood_interneg.plugin.postprocessors import DetectorPostprocessor, all_postprocessors
from openood_interneg.settings import SettingsError, shown
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.preprocess import CLIP_MEAN, CLIP_STD

NETWORK = "clip_zeroshot_interneg"
EVALUATOR = "mixed"
PREPROCESSOR = "clip"
INTERPOLATION = "bicubic"

_benchmarks: dict[str, Registered] = {}


class RegistrationWarning(UserWarning):
    """A name of ours that OpenOOD, or another plugin, uses for something else."""


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
        _insert(api_postprocessor.postprocessors, name, cls, "openood.evaluation_api")
    _insert(transform.normalization_dict, PREPROCESSOR, [list(CLIP_MEAN), list(CLIP_STD)], "")
    _insert(transform.interpolation_modes, INTERPOLATION, _bicubic(), "")

    _wrap(postprocessors, "get_postprocessor", lambda c: c.postprocessor.name, methods)
    _wrap(networks, "get_network", lambda c: c.name, {NETWORK: build_network})
    _wrap(evaluators, "get_evaluator", lambda c: c.evaluator.name, {EVALUATOR: _mixed_evaluator})
    _wrap(
        preprocessors,
        "get_preprocessor",
        lambda c: c.preprocessor.name,
        {PREPROCESSOR: lambda config, split=None: ClipPreprocessor(config)},
    )
    _replace(api_postprocessor, "get_postprocessor", _with_packaged_yaml)
    import openood.evaluation_api.evaluator as api_evaluator

    _bring_preprocessing(api_evaluator.Evaluator)
    _replace(api_datasets, "data_setup", lambda original: checked_setup(original, _benchmarks))
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


# ---- tables and factories ----------------------------------------------------------------


def _insert(table: dict[str, Any], name: str, value: Any, where: str) -> None:
    present = table.get(name)
    if present is None:
        table[name] = value
    elif where and not (isinstance(present, type) and issubclass(present, DetectorPostprocessor)):
        _foreign(name, where)


def _foreign(name: str, where: str) -> None:
    warnings.warn(
        f"'{name}' means something else in {where} already and is left alone; ours is reached "
        f"through openood_interneg.plugin",
        RegistrationWarning,
        stacklevel=4,
    )


def _wrap(
    module: Any,
    attribute: str,
    name_of: Callable[[Any], str],
    ours: Mapping[str, Callable[..., Any]],
) -> None:
    """Lets a factory `attribute(config, ...)` build what we have a name for."""

    def wrapper_of(original: Callable) -> Callable:
        known = _strings(getattr(original, "__code__", None))
        table = dict(ours)
        for name in ours:
            if name in known:
                _foreign(name, f"{module.__name__}.{attribute}")
                del table[name]

        def factory(config: Any, *args: Any, **kwargs: Any) -> Any:
            name = name_of(config)
            if name in table:
                return table[name](config, *args)
            if known and name not in known:
                check_name(attribute.removeprefix("get_"), name, {*known, *table})
            return original(config, *args, **kwargs)

        factory._interneg_known = {*known, *table}
        return factory

    _replace(module, attribute, wrapper_of)


def _replace(module: Any, attribute: str, wrapper_of: Callable[[Callable], Callable]) -> None:
    """Puts a wrapper in the place of a function, in every module that has imported it by name.

    A second call finds the wrapper by its mark; it only serves modules that have imported the
    original in the meantime.
    """
    present = getattr(module, attribute)
    original = getattr(present, "_interneg_original", present)
    wrapper = present
    if present is original:
        wrapper = functools.wraps(original)(wrapper_of(original))
        wrapper._interneg_original = original
    for holder in list(sys.modules.values()):
        if getattr(holder, "__dict__", {}).get(attribute) is original:
            setattr(holder, attribute, wrapper)


def _strings(code: CodeType | None) -> set[str]:
    """String constants of a function: the names in the dictionary or if-chain inside it."""
    found: set[str] = set()
    pending: list[Any] = list(code.co_consts) if code is not None else []
    while pending:
        constant = pending.pop()
        if isinstance(constant, str):
            found.add(constant)
        elif isinstance(constant, (tuple, frozenset)):
            pending.extend(constant)
    return found


def check_name(what: str, name: Any, known: Iterable[str]) -> None:
    """Refuses a name that nothing is registered under, with the nearest that is one.

    Raises:
        SettingsError: the name is unknown.
    """
    known = sorted(known)
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    raise SettingsError(f"there is no {what} {shown(name)}; {hint}")


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


def _bring_preprocessing(evaluator: type) -> None:
    """A CLIP brings its own preprocessing to OpenOOD's Evaluator, unless another one is given.

    OpenOOD's default goes by the benchmark: for ImageNet it would normalise a CLIP's images with
    the mean and deviation that ResNets are trained with.
    """
    original = evaluator.__init__
    if hasattr(original, "_interneg_original"):
        return
    parameters = inspect.signature(original)
    if "preprocessor" not in parameters.parameters:
        return

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(self, *args, **kwargs)
        if given.arguments.get("preprocessor") is None:
            names = known_class_names(given.arguments["id_name"])
            given.arguments["preprocessor"] = own_preprocessing(given.arguments["net"], names)
        original(*given.args, **given.kwargs)

    __init__._interneg_original = original
    evaluator.__init__ = __init__


def own_preprocessing(net: torch.nn.Module, class_names: Sequence[str] | None) -> Callable | None:
    """The preprocessing of the CLIP inside a network; None where there is no CLIP.

    Raises:
        NetworkError: a bare CLIP, and the class names are not known.
    """
    if inner_clip(net) is None:
        return None
    return as_clip(net, class_names).clip.preprocess.transform()


# ---- what main.py builds by name ---------------------------------------------------------


def build_network(config: Any) -> ClipZeroShot:
    """The CLIP of a `network` block: backbone, pretrained_tag, class_names, prompt, precision.

    With `num_gpus: 1` it goes to the GPU where there is one, else it stays on the CPU.

    Raises:
        SettingsError: more than one GPU; class names and num_classes that differ.
    """
    if (config.num_gpus or 0) > 1:
        raise SettingsError(
            "network.num_gpus is more than 1: a stream is one sequence of images, so methods with "
            "a memory cannot be spread over processes; use num_gpus 1"
        )
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    names = resolve_class_names(config.class_names)
    if config.num_classes and int(config.num_classes) != len(names):
        raise SettingsError(
            f"dataset.num_classes is {config.num_classes}, but network.class_names "
            f"({config.class_names}) are {len(names)}"
        )
    backbone = _backbone(config)
    backbone.model.to(device)
    return ClipZeroShot(backbone, names, config.prompt or "nice")


class ClipPreprocessor:
    """CLIP's own preprocessing for every split, also for training: no random augmentation.

    For our network it is the model's (`preprocessor.variant` is `clip`, or `openood_vlm`); for
    another one, CLIP's with the sizes of the `dataset` block.
    """

    def __init__(self, config: Any):
        network = config.network
        if network is not None and network.name == NETWORK:
            preprocess = _backbone(network).preprocess
        else:
            from openood_interneg.vlm.preprocess import Preprocess

            preprocess = Preprocess(config.dataset.image_size, resize=config.dataset.pre_size)
        variant = config.preprocessor.variant or "clip"
        self.transform = preprocess.variant(variant).transform()

    def setup(self, **kwargs: Any) -> None:
        """Called by OpenOOD before every image; nothing to do."""

    def __call__(self, image: Any) -> torch.Tensor:
        return self.transform(image)


@functools.lru_cache(maxsize=1)
def _loaded(source: str, pretrained: str | None, precision: str) -> Backbone:
    return load_backbone(source, pretrained=pretrained, precision=precision)


def _backbone(network: Any) -> Backbone:
    """The backbone of a `network` block; preprocessing and network share one."""
    tag = network.pretrained_tag
    tag = None if tag in (None, "", "none") else tag
    return _loaded(str(network.backbone), tag, network.precision or "fp32")


def _mixed_evaluator(config: Any) -> Any:
    from openood_interneg.plugin.evaluator import MixedOODEvaluator

    return MixedOODEvaluator(config)


def _bicubic() -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BICUBIC


def find_benchmark(name: str) -> Registered | None:
    """A benchmark of ours that is in OpenOOD's tables."""
    return _benchmarks.get(name)


def registered_benchmarks() -> Iterable[str]:
    """Names of our benchmarks in OpenOOD's tables."""
    return tuple(_benchmarks)

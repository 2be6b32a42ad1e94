"""Importing OpenOOD and registration, against a stand-in of the package."""

import builtins
import importlib
import sys
import warnings

import pytest
from openood_standin import swapped, write_standin

from openood_interneg.settings import SettingsError


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    return write_standin(tmp_path_factory.mktemp("standin"))


@pytest.fixture()
def openood(standin):
    with swapped(standin):
        yield importlib.import_module("openood_interneg.plugin.register")


def missing(name):
    return importlib.util.find_spec(name) is None


def test_missing_openood_is_one_error_with_the_command():
    with swapped(None):
        plugin = importlib.import_module("openood_interneg.plugin.openood")
        with pytest.raises(plugin.OpenOODMissing) as error:
            plugin.load_openood()
        assert 'pip install --no-deps "git+https://github.com/Jingkang50/OpenOOD"' in str(
            error.value
        )
        assert "interneg eval" in str(error.value)


def test_classes_without_openood_stand_on_their_own():
    with swapped(None):
        module = importlib.import_module("openood_interneg.plugin.postprocessors")
        made = module.InterNegPostprocessor(beta=0.5)
        assert made.settings.beta == 0.5 and not made.APS_mode
        assert module.BasePostprocessor.__module__.startswith("openood_interneg")


def test_stand_ins_are_listed_raise_when_touched_and_stay_inside(openood):
    plugin = importlib.import_module("openood_interneg.plugin.openood")
    stood_in = plugin.load_openood()
    if not missing("libmr"):
        pytest.skip("libmr is installed")
    assert "libmr" in stood_in and "ModuleNotFoundError" in stood_in["libmr"]
    assert "libmr" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("libmr")
    import openood.postprocessors as theirs

    with pytest.raises(plugin.MissingPackage, match="pip install libmr"):
        theirs.MR()
    if missing("faiss"):
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            theirs.search()
    assert builtins.__import__.__module__ == "builtins"


def test_broken_modules_are_stood_in_for_and_working_ones_are_not(tmp_path):
    (tmp_path / "libmr.py").write_text("raise AttributeError('np.sctypes was removed')\n")
    (tmp_path / "faiss.py").write_text(
        "class IndexFlatL2:\n    def __init__(self, d):\n        self.d = d\n"
    )
    write_standin(tmp_path)
    saved = {name: sys.modules.pop(name, None) for name in ("faiss", "libmr")}
    try:
        with swapped(tmp_path):
            plugin = importlib.import_module("openood_interneg.plugin.openood")
            stood_in = plugin.load_openood()
            assert stood_in["libmr"] == "AttributeError: np.sctypes was removed"
            assert "faiss" not in stood_in
            import openood.postprocessors as theirs

            assert theirs.search().d == 3
    finally:
        for name, module in saved.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def test_other_missing_packages_are_an_error(tmp_path):
    write_standin(tmp_path, **{"pipelines/__init__": "import surely_not_installed\n"})
    with swapped(tmp_path):
        plugin = importlib.import_module("openood_interneg.plugin.openood")
        with pytest.raises(plugin.OpenOODError, match="pip install surely_not_installed"):
            plugin.load_openood()


def test_names_are_known_everywhere_and_openoods_own_stay(openood):
    import openood.evaluation_api.evaluator as api_evaluator
    import openood.evaluation_api.postprocessor as api
    import openood.pipelines as pipelines
    from openood.postprocessors import BasePostprocessor
    from openood.preprocessors.utils import get_preprocessor
    from openood.utils import Config

    from openood_interneg.plugin import patching

    before = dict(api.postprocessors)
    early = pipelines.get_postprocessor
    with pytest.warns(patching.RegistrationWarning):
        openood.register()
    assert pipelines.get_postprocessor is not early
    assert api.get_postprocessor is api_evaluator.get_postprocessor
    for name, cls in before.items():
        assert api.postprocessors[name] is cls
    for name in ("interneg", "interneg_negatives_only", "mcm"):
        assert issubclass(api.postprocessors[name], BasePostprocessor)
        made = pipelines.get_postprocessor(Config(postprocessor={"name": name}))
        assert type(made) is api.postprocessors[name]
    assert (
        type(pipelines.get_postprocessor(Config(postprocessor={"name": "msp"})))
        is BasePostprocessor
    )
    with pytest.raises(SettingsError, match="did you mean 'interneg'"):
        pipelines.get_postprocessor(Config(postprocessor={"name": "internegg"}))
    assert pipelines.get_network(Config(name="resnet")) == "a resnet"
    with pytest.raises(SettingsError, match="no network 'nonsense'"):
        pipelines.get_network(Config(name="nonsense"))
    evaluator = pipelines.get_evaluator(Config(evaluator={"name": "mixed"}, seed=3))
    assert evaluator.protocol == "mixed" and evaluator.seed == 3 and evaluator.batch_size == 256
    assert get_preprocessor(Config(preprocessor={"name": "base"}), "train") == {}


def test_foreign_names_are_left_alone_with_a_warning(openood):
    import openood.evaluation_api.postprocessor as api
    from openood.postprocessors import BasePostprocessor
    from openood.postprocessors.utils import get_postprocessor
    from openood.utils import Config

    from openood_interneg.plugin import patching

    with pytest.warns(patching.RegistrationWarning) as caught:
        openood.register()
    said = " ".join(str(w.message) for w in caught)
    assert "'neglabel'" in said  # in the evaluation API's table
    assert "'energy'" in said  # in main.py's factory
    assert api.postprocessors["neglabel"] is BasePostprocessor
    del get_postprocessor
    from openood.postprocessors.utils import get_postprocessor

    assert type(get_postprocessor(Config(postprocessor={"name": "energy"}))) is BasePostprocessor


def test_registering_again_changes_nothing_but_serves_late_imports(openood):
    import openood.evaluation_api.datasets as datasets
    import openood.postprocessors as package
    import openood.postprocessors.utils as utils

    original = utils.get_postprocessor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openood.register()
        wrapper, table = utils.get_postprocessor, dict(datasets.DATA_INFO)
        package.get_postprocessor = original  # as if another module had kept the old one
        openood.register()
    assert utils.get_postprocessor is wrapper is package.get_postprocessor
    assert wrapper._interneg_original is original
    assert table == datasets.DATA_INFO


def test_preprocessing_and_benchmarks(openood):
    import openood.evaluation_api.datasets as datasets
    import openood.postprocessors.info as info
    import openood.preprocessors.transform as transform

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openood.register()
    assert transform.normalization_dict["clip"][0][0] == pytest.approx(0.48145466)
    assert transform.interpolation_modes["bicubic"].value == "bicubic"
    four = datasets.DATA_INFO["imagenet_four_ood"]
    assert four["ood"]["far"]["datasets"] == ["inaturalist", "sun", "places", "textures"]
    assert four["ood"]["near"] == {"datasets": []} and four["num_classes"] == 1000
    assert four["id"]["test"]["data_dir"] == "images_largescale"
    assert info.num_classes_dict["imagenet_four_ood"] == 1000
    assert datasets.DATA_INFO["cifar10"] == {}  # OpenOOD's own
    assert datasets.data_setup("anywhere", "cifar10") == "downloads"
    with pytest.raises(ValueError, match="lacks the image lists"):
        datasets.data_setup("nowhere", "imagenet_four_ood")


def test_own_benchmark_from_one_yaml(openood, tmp_path):
    import openood.evaluation_api.datasets as datasets

    (tmp_path / "names.txt").write_text("oak\nelm\n")
    (tmp_path / "mine.yml").write_text("""
dataset:
  name: mine
  class_names: names.txt
  test: {data_dir: pictures, imglist_pth: lists/test.txt}
ood_dataset:
  farood:
    datasets: [weeds]
    weeds: {data_dir: ./data/pictures, imglist_pth: /abs/weeds.txt}
""")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert openood.register_benchmark(tmp_path / "mine.yml") == "mine"
    entry = datasets.DATA_INFO["mine"]
    assert entry["id"]["test"]["imglist_path"] == str(tmp_path / "lists" / "test.txt")
    assert entry["ood"]["far"]["weeds"]["data_dir"] == str(tmp_path / "pictures")
    assert entry["ood"]["far"]["weeds"]["imglist_path"] == "/abs/weeds.txt"
    from openood_interneg.plugin.network import resolve_class_names

    assert resolve_class_names("mine") == ("oak", "elm")
    (tmp_path / "theirs.yml").write_text(
        (tmp_path / "mine.yml").read_text().replace("mine", "cifar10")
    )
    with pytest.raises(ValueError, match="give yours another"):
        openood.register_benchmark(tmp_path / "theirs.yml")
    (tmp_path / "empty.yml").write_text("dataset: {name: empty, class_names: [a, b]}\n")
    with pytest.raises(ValueError, match="empty"):
        openood.register_benchmark(tmp_path / "empty.yml")


def test_yaml_of_ours_is_found_in_the_package(openood, tmp_path):
    import openood.evaluation_api.evaluator as api

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openood.register()
    made = api.get_postprocessor(str(tmp_path), "interneg", "cifar10")
    assert made.settings.beta == 0.35 and made.APS_mode is False
    with pytest.raises(RuntimeError, match="a download"):
        api.get_postprocessor(str(tmp_path), "msp", "cifar10")


def test_network_and_preprocessing_of_main(openood):
    import openood.pipelines as pipelines
    import torch
    from openood.utils import Config

    from openood_interneg.plugin import builders

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openood.register()
    from openood.preprocessors.utils import get_preprocessor

    block = {"name": builders.NETWORK, "backbone": "miniature", "class_names": "cifar10"}
    block |= {"num_classes": 10, "num_gpus": 0, "pretrained_tag": "none", "prompt": "nice"}
    net = pipelines.get_network(Config(**block))
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    with pytest.raises(ValueError, match="num_classes is 7"):
        pipelines.get_network(Config(**(block | {"num_classes": 7})))
    with pytest.raises(ValueError, match="one sequence of images"):
        pipelines.get_network(Config(**(block | {"num_gpus": 2})))

    from PIL import Image

    image = Image.new("RGB", (100, 70))
    whole = {"network": block, "preprocessor": {"name": "clip"}}
    preprocess = get_preprocessor(Config(**whole), "train")
    preprocess.setup(name="x")
    assert torch.equal(preprocess(image), net.clip.preprocess.transform()(image))
    other = {"preprocessor": {"name": "clip"}, "dataset": {"image_size": 32, "pre_size": 40}}
    assert get_preprocessor(Config(**other), "test")(image).shape == (3, 32, 32)

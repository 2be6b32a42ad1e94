"""Postprocessors over plain loaders, with or without OpenOOD."""

import copy
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_images import Images, loader
from openood_standin import WORDS

from openood_interneg.data.encode import encode_pixels
from openood_interneg.data.store import Store
from openood_interneg.demo.world import ID_KINDS
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.evaluation.protocols import run_mixed, stream
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.stored_inversion import live_inverter
from openood_interneg.plugin.loaders import LoaderError, LoaderImages, ids_of
from openood_interneg.plugin.network import ClipZeroShot
from openood_interneg.plugin.postprocessors import (
    InterNegNegativesOnlyPostprocessor,
    InterNegPostprocessor,
    MCMPostprocessor,
    NegLabelPostprocessor,
    all_postprocessors,
    class_name,
)
from openood_interneg.plugin.streams import MixedStreams, evaluate
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.factory import load_backbone


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return str(path)


@pytest.fixture()
def options(words, tmp_path):
    """Settings that are quick."""
    quick = {"templates": "photo", "steps": 2, "num_negatives": 12, "images_per_class": 2}
    return quick | {"corpus": words, "cache_dir": tmp_path}


def without_inversion(options):
    return {name: value for name, value in options.items() if name not in ("templates", "steps")}


@pytest.fixture(scope="module")
def loaders():
    return {"train": loader(Images(40, "train")), "test": loader(Images(24, "test", seed=1))}


@pytest.fixture(scope="module")
def ood():
    return loader(Images(16, "ood", ood=True, seed=2))


def test_only_the_chosen_images_are_read(net, options):
    images = Images(40, "train")
    made = InterNegPostprocessor(**options)
    made.setup(net, {"train": loader(images)}, {})
    assert len(set(images.reads)) == len(images.reads) == 20
    made.setup(net, {"train": loader(images)}, {})
    assert len(images.reads) == 20  # set up already


def config(args=None, sweep=None, APS_mode=False):
    block = {"name": "interneg", "APS_mode": APS_mode, "postprocessor_args": args}
    return {"postprocessor": block | {"postprocessor_sweep": sweep}}


def test_every_method_has_a_class():
    classes = all_postprocessors()
    assert set(classes) == {method.name for method in list_methods()}
    assert class_name(get_method("interneg")) == "InterNegPostprocessor"
    for name, cls in classes.items():
        made = cls()
        assert made.method.name == name and not made.APS_mode and not made.hyperparam_search_done
        assert pickle.loads(pickle.dumps(made)).settings == made.settings


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (config({"bta": 0.3}), "did you mean 'beta'"),
        (config({"beta": 3}), "at most 1"),
        (config({"lr": "1e-2"}), "with a dot"),
        (config(sweep={"beta_lst": [0.3]}), "did you mean 'beta_list'"),
        (config(sweep={"beta_list": 0.3}), "takes a list"),
        (config(sweep={"beta_list": [0.3, 7]}), "at most 1"),
        (config(APS_mode=True), "postprocessor_sweep is empty"),
    ],
)
def test_bad_settings_are_refused_at_once(block, message):
    with pytest.raises(SettingsError, match=message):
        InterNegPostprocessor(block)


def test_hyperparameters_go_by_the_sweeps_order():
    sweep = {"tau_list": [0.5, 1.0], "beta_list": [0.2], "num_negatives_list": [3, 4]}
    made = InterNegPostprocessor(config({"beta": 0.4}, sweep, APS_mode=True))
    assert list(made.args_dict) == list(sweep) and made.APS_mode
    assert made.get_hyperparam() == [1.0, 0.4, 2000]
    made.set_hyperparam([0.5, 0.2, 3])
    assert (made.settings.tau, made.settings.beta, made.settings.num_negatives) == (0.5, 0.2, 3)
    assert made.get_hyperparam() == [0.5, 0.2, 3]
    with pytest.raises(SettingsError, match="got 2 values.*takes 3, of tau"):
        made.set_hyperparam([1.0, 0.2])
    late = InterNegPostprocessor()
    late.APS_mode = True
    with pytest.raises(SettingsError, match="postprocessor_sweep is empty"):
        _ = late.args_dict


def test_only_settings_of_the_text_space_mine_again(net, options, loaders, monkeypatch):
    mined = []
    genuine = TextSpaceBuilder._mine
    monkeypatch.setattr(
        TextSpaceBuilder, "_mine", lambda self, s: mined.append(s) or genuine(self, s)
    )
    sweep = {"beta_list": [0.3], "bank_capacity_list": [5], "num_negatives_list": [3]}
    made = InterNegPostprocessor(config(sweep=sweep), **options)
    made.setup(net, loaders, {})
    made.set_hyperparam([0.9, 7, 12])
    assert made.detector.settings.beta == 0.9 and made.detector.bank.capacity == 7
    assert len(mined) == 1
    made.set_hyperparam([0.9, 7, 3])
    assert len(made.detector.space.negatives) == 3 and len(mined) == 2


def test_inference_is_the_detectors_replay(net, options, loaders):
    made = InterNegPostprocessor(beta=1.0, **options)
    made.setup(net, loaders, {})
    pred, conf, label = made.inference(net, loaders["test"], progress=False)
    assert made.detector.inverted > 0 and len(made.detector.bank) > 0
    assert pred.dtype.kind == label.dtype.kind == "i" and conf.shape == (24,)

    images = LoaderImages(loaders["train"], net)
    source = TextSpaceBuilder(net.clip, ID_KINDS, images, Store(None))
    method, settings = get_method("interneg"), made.settings
    detector = method.make(settings, live_inverter(net.clip, settings))
    detector.fit(source.space_for(method, settings))
    batches = list(loaders["test"])
    features = torch.cat([net.clip.encode_image(b["data"]) for b in batches])
    keys = torch.cat([ids_of(b, 0) for b in batches])
    expected_pred, expected = (t.numpy() for t in stream(detector, features, keys, 8))
    assert np.array_equal(conf, expected) and np.array_equal(pred, expected_pred)


def test_takes_the_options_of_inversion(net, options, loaders):
    made = InterNegPostprocessor(
        config({"prefilter": True, "init": "words", "steps": 2, "beta": 1.0}), **options
    )
    made.setup(net, loaders, {})
    made.inference(net, loaders["test"], progress=False)
    state = made.detector.state_dict()
    assert int(state["prefilter.looked"]) == made.detector.inverted == 24
    assert made.settings.init == "words"


def test_encoding_ahead_changes_no_score(net, options, loaders, monkeypatch):
    from openood_interneg.plugin import detector_postprocessor

    one = InterNegPostprocessor(beta=1.0, **options)
    one.setup(net, loaders)
    expected = one.inference(net, loaders["test"], progress=False)
    ahead = partial(detector_postprocessor.encoded_ahead, overlap=True)
    monkeypatch.setattr(detector_postprocessor, "encoded_ahead", ahead)
    found = one.inference(net, loaders["test"], progress=False)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_inference_is_a_fresh_stream(net, options, loaders, ood):
    made = InterNegPostprocessor(beta=1.0, **options)
    made.setup(net, loaders, {})
    first = made.inference(net, ood, progress=False)[1]
    assert np.array_equal(made.inference(net, ood, progress=False)[1], first)
    made.reset()
    by_batch = torch.cat([made.postprocess(net, b)[1] for b in ood]).numpy()
    assert np.array_equal(by_batch, first)
    made.reset()
    made.postprocess(net, next(iter(ood))["data"])  # without names
    assert made._seen == 8


def test_pickled_without_the_network_and_set_up_again(net, options, loaders, ood):
    made = InterNegPostprocessor(config({"beta": 1.0}, {"beta_list": [0.8]}), **options)
    made.setup(net, loaders, {})
    made.hyperparam_search_done = True
    before = made.inference(net, ood, progress=False)[1]
    data = pickle.dumps(made)
    assert len(data) < 5000
    again = pickle.loads(data)
    assert not again.setup_flag and again.hyperparam_search_done and again.settings == made.settings
    with pytest.raises(LoaderError, match=r"call setup"):
        again.inference(net, ood)
    again.setup(net, loaders, {})
    assert np.array_equal(again.inference(net, ood, progress=False)[1], before)
    assert copy.deepcopy(made).settings == made.settings


def test_what_a_method_does_not_need_is_not_asked_for(net, options, ood):
    for cls, own in (
        (MCMPostprocessor, {}),
        (NegLabelPostprocessor, {"corpus": options["corpus"]}),
    ):
        made = cls(cache_dir=options["cache_dir"], **own)
        made.setup(net, {}, {})
        assert np.isfinite(made.inference(net, ood, progress=False)[1]).all()
    with pytest.raises(LoaderError, match="needs ID training images"):
        InterNegPostprocessor(**options).setup(net, {}, {})
    with pytest.raises(LoaderError, match="empty"):
        made.inference(net, loader(Images(0, "none")))


def test_mixed_is_the_paper_protocol(net, options, loaders, ood):
    made = InterNegPostprocessor(beta=1.0, **options)
    made.setup(net, loaders, {})
    streams = MixedStreams(
        net, made, {"id": loaders["test"]}, seed=3, batch_size=10, progress=False
    )
    (id_pred, id_conf, id_label), (_, ood_conf, ood_label) = streams.run("ood", ood)
    sets = [made.feature_set(net, dl, "s", False) for dl in (loaders["test"], ood)]
    run = run_mixed(made.detector, *sets, seed=3, batch_size=10)
    assert np.array_equal(id_conf, run.id_score) and np.array_equal(ood_conf, run.ood_score)
    assert np.array_equal(id_pred, run.id_pred)
    assert id_label.tolist() == [i % 10 for i in range(24)] and set(ood_label) == {-1}


def test_mixed_order_for_any_postprocessor(net, loaders, ood):
    class Counter:  # its score is the place in the stream
        def inference(self, net, loader, progress):
            labels = torch.cat([b["label"] for b in loader]).numpy()
            return np.zeros(len(labels), int), np.arange(len(labels), dtype=float), labels

    from openood_interneg.evaluation.protocols import mixed_order

    streams = MixedStreams(net, Counter(), {"id": loaders["test"]}, seed=4)
    id_scores, ood_scores = streams.run("ood", ood)
    places = np.concatenate([id_scores[1], ood_scores[1]])
    assert np.array_equal(np.argsort(places), mixed_order(24, 16, 4))
    assert id_scores[2].tolist() == [i % 10 for i in range(24)]


@pytest.mark.parametrize("protocol", ["mixed", "openood"])
def test_evaluate_gives_openoods_table(net, options, loaders, ood, protocol):
    made = InterNegNegativesOnlyPostprocessor(**without_inversion(options))
    other = loader(Images(12, "far", ood=True, seed=9))
    table = evaluate(
        net, made, loaders, {"near": {"ood": ood}, "far": {"far": other}}, protocol=protocol,
        progress=False,
    )  # fmt: skip
    assert list(table.columns) == ["FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC"]
    assert list(table.index) == ["ood", "nearood", "far", "farood"]
    assert np.isfinite(table.to_numpy()).all()
    with pytest.raises(SettingsError, match="protocol"):
        evaluate(net, made, loaders, {"near": {"ood": ood}}, protocol="sorted")


@pytest.mark.slow
def test_views_and_patches_are_made_of_the_loaders_pixels(net, loaders, ood, tmp_path):
    made = all_postprocessors()["cover"](cache_dir=tmp_path)
    made.setup(net, loaders, {})
    found = made.feature_set(net, ood, "ood", progress=False)
    assert found.features.dim() == 3 and found.features.shape[1] == len(found) == 16
    whole = torch.cat([net.clip.encode_image(b["data"]) for b in ood])
    torch.testing.assert_close(found.features[0], whole, atol=1e-4, rtol=0)
    assert np.isfinite(made.inference(net, ood, progress=False)[1]).all()

    vit = ClipZeroShot.load(
        Path(__file__).parents[1] / "golden" / "tiny_clip.safetensors", ID_KINDS
    )
    features = encode_pixels(vit.clip, torch.randn(2, 3, 32, 32), "patches")
    assert features.dim() == 3 and features.shape[1:] == (2, vit.feature_size)


def test_network_moves_are_followed(options, loaders, ood):
    net = ClipZeroShot(load_backbone("miniature"), ID_KINDS)
    made = InterNegNegativesOnlyPostprocessor(**without_inversion(options))
    made.setup(net, loaders, {})
    assert made.detector is made.detector
    if torch.cuda.is_available():
        before = made.inference(net, ood, progress=False)[1]
        net.cuda()
        after = made.inference(net, ood, progress=False)[1]
        assert made.detector.space.device.type == "cuda"
        np.testing.assert_allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("name", ["rationeg", "tins"])
def test_newer_methods_go_through_the_plugin(net, options, loaders, ood, name):
    given = {"rationeg": without_inversion(options), "tins": without_inversion(options)}[name]
    made = all_postprocessors()[name](**given | ({"groups": 1} if name == "tins" else {}))
    made.setup(net, loaders, {})
    assert made.p_values is None
    pred, conf, _ = made.inference(net, ood, progress=False)
    sets = made.feature_set(net, ood, "s", False)
    made.reset()
    said = stream(made.detector, sets.features, sets.ids, 8)
    assert np.array_equal(conf, said.score.numpy()) and np.array_equal(pred, said.pred.numpy())
    if name == "tins":
        assert made.p_values is None and made.detector.inverted > 0
        return
    assert np.array_equal(made.p_values, said.p.numpy())
    assert (made.p_values > 0).all() and (made.p_values <= 1).all()
    one = made.postprocess(net, next(iter(ood)))
    assert np.array_equal(made.p_values, one.p.numpy())
    assert pickle.loads(pickle.dumps(made)).p_values is None

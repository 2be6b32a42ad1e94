"""What holds for every method without a learned memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from static_helpers import CLASSES, NAMES, NEGATIVES, SIZE, around, make, unit

from openood_interneg.detectors import id_features
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.csp import CSPSettings
from openood_interneg.detectors.neglabel import NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.settings import SettingsError, as_mapping

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "postprocessors"


def auroc(detector, id_images, ood_images):
    every = torch.cat([id_images, ood_images])
    is_id = torch.arange(len(every)) < len(id_images)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(8))
    scores = torch.cat([detector.step(chunk).score for chunk in every[order].split(64)])
    return 100 * roc_auc_score(is_id[order], scores)


@pytest.mark.parametrize("name", NAMES)
def test_blobs(image_space, name):
    id_images = around(image_space.labels[torch.arange(300) % CLASSES], 1.0, 9)
    again = around(image_space.labels[torch.arange(300) % CLASSES], 1.0, 10)
    ood_images = around(image_space.negatives[torch.arange(300) % NEGATIVES], 1.0, 11)
    detector = make(name).fit(image_space)
    assert auroc(detector, id_images, ood_images) > 85
    detector.reset()
    assert abs(auroc(detector, id_images, again) - 50) < 8  # three deviations: 7


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_reset_and_continuing(image_space, image_stream, name):
    detector = make(name).fit(image_space)
    whole = detector.step(image_stream)
    for size in (1, 7):
        detector.reset()
        parts = [detector.step(chunk) for chunk in image_stream.split(size)]
        torch.testing.assert_close(torch.cat([p.score for p in parts]), whole.score)
        assert torch.equal(torch.cat([p.pred for p in parts]), whole.pred)
    detector.reset()
    detector.step(image_stream[:20])
    other = make(name).fit(image_space)
    other.load_state_dict(detector.state_dict())
    torch.testing.assert_close(other.step(image_stream[20:]).score, whole.score[20:])
    assert bool(detector.state_dict()) == bool(get_method(name).state)


@pytest.mark.parametrize("name", NAMES)
def test_no_image(image_space, name):
    scores = make(name).fit(image_space).step(torch.empty(0, SIZE))
    assert scores.pred.shape == scores.score.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_bad_features_leave_the_state_alone(image_space, image_stream, name):
    detector = make(name).fit(image_space)
    broken = image_stream.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(DetectorError, match="feature 3"):
        detector.step(broken)
    with pytest.raises(DetectorError, match="expected"):
        detector.step(image_stream[:, :-1])
    fresh = make(name).fit(image_space).step(image_stream).score
    torch.testing.assert_close(detector.step(image_stream).score, fresh)


def test_spaces_that_lack_something(image_space):
    bare = replace(image_space, negatives=image_space.labels[:0], extra={})
    for name in ("eoe", "clipscope", "mahalanobis", "clip_knn"):
        with pytest.raises(DetectorError, match="needs"):
            make(name).fit(bare)
    with pytest.raises(DetectorError, match="31 groups"):
        make("neglabel", groups=31).fit(image_space)
    with pytest.raises(DetectorError, match="k = 73"):
        make("clip_knn", k=73).fit(image_space)
    with pytest.raises(DetectorError, match="at least one of each"):
        id_features.id_images(replace(image_space, labels=unit(CLASSES + 1, SIZE)), "KNN")
    with pytest.raises(DetectorError, match="counts"):
        make("clipscope").fit(image_space).load_state_dict({"counts": torch.ones(2)})


@pytest.mark.parametrize("name", NAMES)
def test_yaml_holds_the_defaults(name):
    method = get_method(name)
    block = yaml.safe_load((CONFIGS / f"{name}.yml").read_text())["postprocessor"]
    assert set(block) == {"name", "APS_mode", "postprocessor_args", "postprocessor_sweep"}
    assert block["name"] == name and block["APS_mode"] is False
    defaults = as_mapping(method.make_settings())
    for setting, value in block["postprocessor_args"].items():
        assert value == defaults[setting] and type(value) is type(defaults[setting]), setting
    for sweep, values in block["postprocessor_sweep"].items():
        for value in values:
            method.make_settings({sweep.removesuffix("_list"): value})


@pytest.mark.parametrize("name", NAMES)
def test_presets(name):
    method = get_method(name)
    assert {"imagenet", "cifar10", "cifar100"} <= set(method.presets)
    for values in method.presets.values():
        method.make_settings(values)


def test_settings_at_odds():
    with pytest.raises(SettingsError, match="intra"):
        NegLabelSettings(fraction=0.2, negatives="inter")
    with pytest.raises(SettingsError, match="keep_class_names"):
        NegLabelSettings(keep_class_names=True)
    with pytest.raises(SettingsError, match=r"'clipscope' has no setting 'negatives'.*neglabel"):
        get_method("clipscope").make_settings({"negatives": "inter"})
    with pytest.raises(SettingsError, match="fraction"):
        CSPSettings(fraction=0.0)

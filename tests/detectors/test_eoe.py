"""EOE against slow versions written from the formulas, and its texts."""

import pytest
import torch
from static_helpers import CLASSES, ID_NAMES, FakeSource, cosine, rows, same, softmax

from openood_interneg.data.classnames import class_names
from openood_interneg.detectors import eoe
from openood_interneg.detectors.eoe import EOE, SHIPPED, EOESettings, outlier_labels, read_labels
from openood_interneg.detectors.registry import get_method
from openood_interneg.settings import SettingsError


def test_eoe(image_space, image_stream):
    scores = EOE(EOESettings(beta=0.25, tau=0.1)).fit(image_space).step(image_stream)
    expected = []
    for h in rows(image_stream):
        joint = softmax(
            [c / 0.1 for c in cosine(h, image_space.labels) + cosine(h, image_space.negatives)]
        )
        expected.append(max(joint[:CLASSES]) - 0.25 * max(joint[CLASSES:]))
    same(scores.score, expected)


def test_eoe_without_penalty_is_the_id_maximum_of_the_joint_softmax(image_space, image_stream):
    score = EOE(EOESettings(beta=0.0)).fit(image_space).step(image_stream).score
    joint = (image_stream @ torch.cat([image_space.labels, image_space.negatives]).t()).softmax(
        dim=1
    )
    torch.testing.assert_close(score, joint[:, :CLASSES].amax(dim=1))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_lists(name):
    labels = read_labels(name)
    benchmark, kind = name.split("_")
    names = class_names(benchmark)
    most = 3 * len(names) if kind == "near" else 500
    assert 0.9 * most <= len(labels) <= most
    assert list(outlier_labels(labels, names)) == labels  # distinct, lower-case, no class name


def test_shipped_lists_differ_by_kind():
    near, far = set(read_labels("cifar10_near")), set(read_labels("cifar10_far"))
    assert "fox" in near and "fox" not in far


def test_outlier_labels():
    labels = ["Sea Lion", "sea_lion", "red  ship", "walrus", "Walrus", "lion", "tree frog"]
    assert outlier_labels(labels, ID_NAMES) == ("red ship", "walrus", "lion", "tree frog")
    assert outlier_labels(labels, ID_NAMES, drop_shared_tokens=True) == ("walrus",)


def test_eoe_space_from_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("# mine\nWalrus\nCAT\n\nlamp post\n")
    source = FakeSource(ID_NAMES)
    found = source.space_for(get_method("eoe"), EOESettings(labels=str(path)))
    assert found.negative_words == ("walrus", "lamp post")
    expected = source.backbone.encode_prompts(["walrus", "lamp post"], ["a photo of a {}"])
    torch.testing.assert_close(found.negatives, expected)


def test_label_files_that_cannot_be_used(tmp_path):
    source = FakeSource(ID_NAMES)
    with pytest.raises(SettingsError, match="imagenet_far"):
        eoe.space(source, EOESettings(labels="imagenet_fra"))
    with pytest.raises(SettingsError, match="folder"):
        read_labels(str(tmp_path))
    for text, message in (("# none\n\n", "no outlier labels"), ("Cat\nSHIP\n", "class names only")):
        path = tmp_path / "labels.txt"
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            eoe.space(source, EOESettings(labels=str(path)))

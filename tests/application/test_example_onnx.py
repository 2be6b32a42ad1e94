"""examples/export_onnx.py: what onnxruntime computes is what torch does."""

import json

import numpy as np
import pytest
import torch
from drawn_world import CLASSES, example, miniature, stream_files, world

from openood_interneg import OODDetector

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NEGATIVES = {"num_negatives": 20, "groups": 5}


def made(method: str, **values) -> OODDetector:
    places = {"cache": world() / "store"}
    if "num_negatives" in values:
        places["corpus"] = str(world() / "words.txt")
    detector = OODDetector(miniature(), method, **(places | values))
    images = world() / "id" if detector.settings.reads_id_images else None
    return detector.fit(CLASSES, images, calibrate=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("mcm", {}),
        ("neglabel", NEGATIVES),
        ("interneg_negatives_only", NEGATIVES),
        ("energy", {}),
        ("maxlogit", {}),
        ("clip_knn", {"k": 2}),
        ("mahalanobis", {}),
    ],
)
def test_the_file_scores_as_torch_does(method, values, tmp_path):
    detector, path = made(method, **values), tmp_path / "detector.onnx"
    detector.gamma = 0.25
    example("export_onnx").export(detector, path)
    assert list(tmp_path.iterdir()) == [path]
    session = onnxruntime.InferenceSession(path)
    pixels = torch.stack([detector.encoder.prepare(file)[0] for file in stream_files()[:24]])
    expected = detector.score_features(detector.encoder.features(pixels), update=False)
    # a batch of any size, and each image by itself
    for size in (24, 1):
        for begin in range(0, 24, size):
            batch = slice(begin, begin + size)
            label, score = session.run(None, {"pixels": pixels[batch].numpy()})
            np.testing.assert_allclose(score, expected.score[batch], atol=1e-4, rtol=1e-5)
            np.testing.assert_array_equal(label, expected.pred[batch])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["gamma"]) == 0.25
    assert json.loads(facts["preprocess"])["size"] == pixels.shape[-1]


@pytest.mark.parametrize(("method", "values"), [("cover", {}), ("adaneg", {"num_negatives": 20})])
def test_methods_of_more_than_one_feature_are_refused(method, values, tmp_path):
    with pytest.raises(SystemExit, match="more than one image"):
        example("export_onnx").export(made(method, **values), tmp_path / "detector.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_file_that_differs_does_not_take_its_place(tmp_path, monkeypatch):
    detector, path = made("mcm"), tmp_path / "detector.onnx"
    path.write_text("of before")
    right = detector.score_features
    wrong = lambda *args, **options: right(*args, **options)._replace(score=torch.zeros(3))  # noqa: E731
    monkeypatch.setattr(detector, "score_features", wrong)
    with pytest.raises(AssertionError):
        example("export_onnx").export(detector, path)
    assert path.read_text() == "of before"

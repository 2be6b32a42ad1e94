"""Calls and streams: cut anyhow, with bad images, explained."""

import functools

import numpy as np
import pytest
import torch
from drawn_world import TOLERANCE, fitted, reference, stream_files
from torch.utils.data import DataLoader

from openood_interneg.application import scorer
from openood_interneg.application.stream import Scored
from openood_interneg.data.any_image import as_image
from openood_interneg.data.images import ImageError
from openood_interneg.settings import SettingsError


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 48])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    got = fitted(batch_size=batch_size).score(stream_files())
    np.testing.assert_allclose(got, reference(), atol=TOLERANCE)
    detector = fitted(batch_size=batch_size)
    calls = [detector.score(stream_files()[i : i + 5]) for i in range(0, 48, 5)]
    np.testing.assert_allclose(np.concatenate(calls), reference(), atol=TOLERANCE)


@pytest.mark.slow
def test_a_dataloader_and_reading_threads_give_the_same_scores(monkeypatch):
    class Pixels(torch.utils.data.Dataset):
        def __len__(self):
            return 48

        def __getitem__(self, i):
            return torch.from_numpy(np.array(as_image(stream_files()[i]))).permute(2, 0, 1)

    detector = fitted()
    loader = DataLoader(Pixels(), batch_size=32, num_workers=2)
    got = np.concatenate([detector.score(pixels) for pixels in loader])
    np.testing.assert_array_equal(got, reference())
    plain, ahead = scorer.encoded_ahead, functools.partial(scorer.encoded_ahead, overlap=True)
    for workers, encoded_ahead in ((0, plain), (3, plain), (3, ahead)):
        monkeypatch.setattr(scorer, "encoded_ahead", encoded_ahead)
        detector = fitted()
        entries = [e for batch in detector.stream(stream_files(), workers=workers) for e in batch]
        np.testing.assert_array_equal(np.float32([e.score for e in entries]), reference())


def test_a_call_with_a_bad_image_changes_nothing(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    detector = fitted(batch_size=4)
    with pytest.raises(ImageError, match=r"image 10.*bad\.png"):
        detector.score([*stream_files()[:10], bad])
    assert detector.position == 0 and detector.bank_size == 0
    np.testing.assert_allclose(detector.score(stream_files()), reference(), atol=TOLERANCE)


def test_a_stream_goes_on_after_a_bad_image(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    paths = stream_files()
    paths[5:5] = [bad]
    detector = fitted(batch_size=8)
    entries = [e for batch in detector.stream(paths) for e in batch]
    assert [e.position for e in entries] == list(range(49)) and detector.failed == 1
    assert entries[5] == Scored(5, str(bad), error=entries[5].error)
    assert "bad.png" in entries[5].error and entries[5].unknown is None
    rest = [e for e in entries if e.error is None]
    np.testing.assert_allclose([e.score for e in rest], reference(), atol=TOLERANCE)
    assert all(e.unknown == (e.score < 0.5) for e in rest)

    detector = fitted(batch_size=4)
    with pytest.raises(ImageError, match="position 5"):
        list(detector.stream(paths, on_error="stop"))
    assert detector.position == 4
    with pytest.raises(SettingsError, match="on_error"):
        list(detector.stream(paths, on_error="ignore"))


def test_an_explanation_adds_up():
    detector = fitted()
    detector.score(stream_files())
    before = detector.bank_size
    for path in stream_files()[:8]:
        found = detector.explain(path, top=50)
        assert len(found.labels) == 4 and len(found.negatives) == len(detector.space.negatives)
        masses = [[v for _, v in found.labels], [v for _, v in found.negatives]]
        total = sum(map(sum, masses)) + sum(entry.share for entry in found.bank)
        assert total == pytest.approx(1, abs=1e-4)
        assert sum(masses[0]) == pytest.approx(found.score, abs=1e-4)
        assert found.score == pytest.approx(detector.score(path, update=False)[0], abs=1e-5)
        cosines = [entry.cosine for entry in found.bank]
        assert cosines == sorted(cosines, reverse=True)
        assert all(len(entry.words) == 3 for entry in found.bank)
        assert (found.dominant is None) == (found.prediction != "unknown")
    assert detector.bank_size == before and detector.position == 48

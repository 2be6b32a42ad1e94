"""Threads and processes that share a detector."""

import pickle

import numpy as np
import pytest
from drawn_world import TOLERANCE, fitted, in_threads, miniature, stream_files

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.detectors.base import DetectorError


def test_threads_score_without_updates_or_take_turns():
    detector = fitted()
    # without updates, all threads get what one gets
    alone, got = detector.score(stream_files(), update=False), {}
    jobs = [
        lambda i=i: got.setdefault(i, detector.score(stream_files()[i::4], update=False))
        for i in range(4)
    ]
    assert in_threads(jobs) == []
    for i in range(4):
        np.testing.assert_allclose(got[i], alone[i::4], atol=TOLERANCE)

    # by arrival: whole calls, one after the other
    detector = fitted(threads="arrival", bank="none")
    got = {}
    jobs = [lambda i=i: got.setdefault(i, detector.score(stream_files()[i::4])) for i in range(4)]
    assert in_threads(jobs) == []
    alone = fitted(bank="none").score(stream_files())
    for i in range(4):
        np.testing.assert_allclose(got[i], alone[i::4], atol=TOLERANCE)
    assert detector.position == 48


def test_calls_in_arrival_order_are_whole(tmp_path):
    detector = fitted(threads="arrival")
    log = []
    step = detector._detector.step
    detector._detector.step = lambda h, k: (log.append(k.tolist()), step(h, k))[1]
    jobs = [lambda i=i: detector.score(stream_files()[12 * i : 12 * i + 12]) for i in range(4)]
    saves = [lambda i=i: detector.save(tmp_path / f"{i}.safetensors") for i in range(3)]
    assert in_threads([*jobs, *saves]) == []
    ids = {k: p for p in stream_files() for k in [detector._encoder.prepare(p)[1]]}
    order = [ids[k] for batch in log for k in batch]
    again = fitted()
    again.score(order)
    assert again.bank_size == detector.bank_size
    # what was saved meanwhile is a moment between two calls
    for i in range(3):
        kept = InterNegDetector.load(tmp_path / f"{i}.safetensors", miniature())
        assert kept.position % 12 == 0
        alone = fitted()
        alone.score(order[: kept.position])
        assert kept.bank_size == alone.bank_size


def test_pickling_and_forking_are_refused(monkeypatch):
    detector = fitted()
    with pytest.raises(DetectorError, match="save"):
        pickle.dumps(detector)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(DetectorError, match="copied into another process"):
        detector.score(stream_files()[:1])
    assert detector.score(stream_files()[:1], update=False).shape == (1,)

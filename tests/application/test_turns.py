"""Who may add to a stream: overlap is refused, calls one after the other are not."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drawn_world import fitted, in_threads, reference, stream_files

from openood_interneg.detectors.base import DetectorError

TOLERANCE = 1e-4


def scored_in_pieces(detector, call):
    pieces = [call(detector, stream_files()[i : i + 4]) for i in range(0, 48, 4)]
    np.testing.assert_allclose(np.concatenate(pieces), reference(), atol=TOLERANCE)
    assert detector.position == 48


def in_short_thread(detector, paths):
    got = []
    assert in_threads([lambda: got.append(detector.score(paths))]) == []
    return got[0]


def test_short_threads_one_after_the_other_are_one_stream():
    scored_in_pieces(fitted(), in_short_thread)


def test_asyncio_to_thread_one_after_the_other_is_one_stream():
    async def run(detector):
        loop, scores = asyncio.get_running_loop(), []
        with contextlib.ExitStack() as pools:
            for i in range(12):  # a pool of its own for each: never the same thread twice
                loop.set_default_executor(pools.enter_context(ThreadPoolExecutor(1)))
                scores.append(await asyncio.to_thread(detector.score, stream_files()[i::12]))
        return scores

    detector = fitted()
    assert len(asyncio.run(run(detector))) == 12 and detector.position == 48


def test_a_thread_may_go_on_with_the_stream_of_another():
    detector = fitted(batch_size=4)
    batches, got = detector.stream(stream_files()), []
    while not got or got[-1] is not None:
        assert in_threads([lambda: got.append(next(batches, None))]) == []
    scores = [entry.score for batch in got[:-1] for entry in batch]
    np.testing.assert_allclose(scores, reference(), atol=TOLERANCE)


def meeting(detector):
    """Calls `detector.score` in a thread and returns when it is inside, and how to let it end."""
    inside, go = threading.Event(), threading.Event()
    encode = detector._encoder.encode

    def waiting(sources):
        inside.set()
        assert go.wait(30)
        return encode(sources)

    detector._encoder.encode = waiting
    thread = threading.Thread(target=detector.score, args=(stream_files()[:4],))
    thread.start()
    assert inside.wait(30)
    detector._encoder.encode = encode

    def end():
        go.set()
        thread.join()

    return end


@pytest.mark.parametrize("use", ["score", "predict", "stream", "score_features"])
def test_overlap_is_refused_from_the_first_image_on(use):
    detector = fitted()
    rows, _ = detector._encoder.encode(stream_files()[:2])
    end = meeting(detector)
    calls = {
        "score": lambda: detector.score(stream_files()[4:8]),
        "predict": lambda: detector.predict(stream_files()[4:8]),
        "stream": lambda: next(detector.stream(stream_files()[4:8])),
        "score_features": lambda: detector.score_features(rows),
    }
    with pytest.raises(DetectorError, match="another call of score or predict.*has not ended"):
        calls[use]()
    assert detector.score(stream_files()[4:8], update=False).shape == (4,)
    end()
    assert detector.position == 4
    calls[use]()
    assert detector.position > 4


def test_without_a_bank_or_by_arrival_overlap_is_fine():
    for values in ({"threads": "arrival"}, {"bank": "none"}, {"bank_capacity": 0}):
        detector = fitted(**values)
        end = meeting(detector)
        assert detector.score(stream_files()[4:8]).shape == (4,)
        end()
        assert detector.position == 8


def test_an_open_stream_is_not_interrupted_by_another_call():
    detector = fitted(batch_size=4)
    stream = detector.stream(stream_files())
    next(stream)
    for call in (
        lambda: detector.score(stream_files()[:2]),
        lambda: next(detector.stream(stream_files())),
    ):
        with pytest.raises(DetectorError, match="another stream.*has not ended"):
            call()
    assert detector.position == 4 and len(next(stream)) == 4
    stream.close()
    detector.score(stream_files()[8:])
    assert detector.position == 48

    # by arrival it may be
    detector = fitted(batch_size=4, threads="arrival")
    stream = detector.stream(stream_files())
    next(stream)
    detector.score(stream_files()[:2])
    next(stream)
    assert detector.position == 10


def test_a_stream_that_was_reset_does_not_go_on():
    detector = fitted(batch_size=4)
    stream = detector.stream(stream_files())
    next(stream)
    detector.reset()
    with pytest.raises(DetectorError, match="was reset"):
        next(stream)
    assert detector.position == 0 and detector.bank_size == 0
    detector.score(stream_files())
    assert detector.position == 48


def test_an_error_gives_the_turn_back(tmp_path):
    detector = fitted()
    for _ in range(2):
        with pytest.raises(Exception, match=r"none\.png"):
            detector.score([tmp_path / "none.png"])
    assert detector.score(stream_files()[:2]).shape == (2,)

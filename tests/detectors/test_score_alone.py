"""`score`: each image by itself, the memory as it is, nothing learned; for every method."""

import copy

import pytest
import torch
from watch_helpers import WITH_FILES, images, made, names_with_memory, whole_space

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.registry import list_methods

CAUSAL = [m.name for m in list_methods() if m.causal and m.takes(*next(iter(m.causal.items())))]


def fits(name):
    try:
        made(name, whole_space())
    except DetectorError:
        return False
    return True


NAMES = [method.name for method in list_methods() if fits(method.name)]


def test_methods_left_out_remember_nothing_or_need_files():
    left = {method.name: method for method in list_methods() if method.name not in NAMES}
    for name, method in left.items():
        assert name in WITH_FILES or not method.order_dependent, name
    assert {"interneg", "tins", "rationeg", "adaneg", "tanl", "clipscope"} <= set(NAMES)
    assert set(names_with_memory()) <= set(NAMES)


def detectors():
    for name in NAMES:
        yield pytest.param(name, {}, id=name)
    for name in CAUSAL:
        method = next(m for m in list_methods() if m.name == name)
        yield pytest.param(name, dict(method.causal), id=f"{name}-causal")
    yield pytest.param("interneg", {"groups": 3}, id="interneg-groups")
    yield pytest.param("tins", {"groups": 1}, id="tins-one-group")
    yield pytest.param("rationeg", {"refresh": True, "band": True}, id="rationeg-refresh")
    yield pytest.param("rationeg", {"memory": "inverted"}, id="rationeg-inverted")
    yield pytest.param("adaneg", {"adaptive_gap": True, "eviction": "half"}, id="adaneg-gap")
    yield pytest.param("tanl", {"alpha": 0.0, "gamma": 0}, id="tanl-batch")


@pytest.mark.parametrize("name, values", list(detectors()))
def test_score_is_row_by_row_and_leaves_the_state_alone(name, values):
    space = whole_space()
    detector = made(name, space, **values)
    stream = images(space, 90, 11)
    for part in stream.split(16):
        detector.step(part)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    assert bool(before) == (name in names_with_memory())
    twin = copy.deepcopy(detector)

    probe = images(space, 30, 12)
    whole = detector.score(probe)
    rows = [detector.score(row[None]) for row in probe]
    assert torch.equal(whole.pred, torch.cat([row.pred for row in rows]))
    torch.testing.assert_close(
        whole.score, torch.cat([row.score for row in rows]), atol=2e-6, rtol=2e-5
    )
    if detector.has_p:
        assert torch.equal(whole.p, torch.cat([row.p for row in rows]))
    else:
        assert whole.p is None

    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    going_on = detector.step(probe), twin.step(probe)
    assert torch.equal(going_on[0].score, going_on[1].score)


@pytest.mark.parametrize("name", [n for n in names_with_memory() if n in NAMES])
def test_score_refuses_what_step_refuses(name):
    space = whole_space()
    detector = made(name, space)
    with pytest.raises(DetectorError, match="expected"):
        detector.score(torch.zeros(3, 5))
    bad = images(space, 3, 1)
    bad[1, 2] = float("nan")
    with pytest.raises(DetectorError, match="feature 1"):
        detector.score(bad)


@pytest.mark.parametrize("name", names_with_memory())
def test_what_is_not_watched_any_more_leaves_no_trace(name):
    space = whole_space()
    plain, watching = made(name, space), made(name, space)
    first, second = images(space, 40, 3).split(20)
    watching.watch(images(space, 12, 4))
    assert torch.equal(plain.step(first).score, watching.step(first).score)
    watching.watch(None)
    said = watching.step(second)
    assert torch.equal(plain.step(second).score, said.score) and said.gamma is None
    with pytest.raises(DetectorError, match="no ID images are watched"):
        _ = watching.threshold


def test_a_method_that_only_steps_scores_images_one_by_one(monkeypatch):
    """What a detector gets that someone else wrote."""
    space = whole_space()
    for name in ("clipscope", "adaneg"):
        detector = made(name, space)
        detector.step(images(space, 60, 5))
        probe = images(space, 20, 6)
        expected = detector.score(probe)
        for own in {"score", "_watched_now"} & vars(type(detector)).keys():
            monkeypatch.delattr(type(detector), own)
        found = detector.score(probe)
        assert torch.equal(found.pred, expected.pred) and found.gamma is None
        torch.testing.assert_close(found.score, expected.score, atol=2e-6, rtol=2e-5)
        detector.watch(probe, 0.9)
        assert detector.threshold == pytest.approx(float(expected.score.sort().values[2]), rel=1e-4)

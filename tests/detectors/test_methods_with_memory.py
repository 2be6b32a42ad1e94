"""AdaNeg, TANL and CoVer: state, refusals, presets and YAML."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from memory_helpers import SIZE, run, unit

from openood_interneg.detectors.adaneg import METHOD as ADANEG
from openood_interneg.detectors.adaneg import AdaNeg, AdaNegSettings
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.cover import METHOD as COVER
from openood_interneg.detectors.mcm import MCM
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.tanl import METHOD as TANL_METHOD
from openood_interneg.detectors.tanl import (
    TANL,
    TANLSettings,
)
from openood_interneg.settings import as_mapping


@pytest.mark.parametrize("make", ["adaneg", "tanl"])
def test_reset_and_state(space, stream, make):
    def fresh():
        if make == "adaneg":
            settings = AdaNegSettings(capacity=3, gap=0.1, adaptive_gap=True, groups=4)
            return AdaNeg(settings).fit(space)
        return TANL(TANLSettings(beta=9, capacity=12, gap=0.2, alpha=0.5)).fit(space)

    detector = fresh()
    whole = run(detector, stream, 10)[1]
    detector.reset()
    assert torch.equal(run(detector, stream, 10)[1], whole)
    assert torch.equal(run(fresh().fit(space), stream, 10)[1], whole)

    first = fresh()
    run(first, stream[:30], 10)
    state = {k: v.clone() for k, v in first.state_dict().items()}
    second = fresh()
    second.load_state_dict(state)
    torch.testing.assert_close(run(second, stream[30:], 10)[1], whole[30:], atol=1e-6, rtol=0)
    for name, value in first.state_dict().items():  # the copy is not shared
        assert torch.equal(value, state[name])
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, run_to_end(fresh(), stream)[name])
    with pytest.raises(DetectorError, match="lacks"):
        second.load_state_dict({})
    other = replace(space, negatives=unit(12, SIZE, seed=12))
    small = type(first)(replace(first.settings, capacity=2)).fit(other)
    with pytest.raises(DetectorError, match="stored"):
        small.load_state_dict(state)


def run_to_end(detector, stream):
    run(detector, stream, 10)
    return detector.state_dict()


def test_refused_batch_leaves_no_trace(space, stream):
    for detector in (AdaNeg(AdaNegSettings(gap=0.1)), TANL(TANLSettings(beta=5))):
        detector.fit(space)
        before = {k: v.clone() for k, v in detector.state_dict().items()}
        bad = stream.clone()
        bad[3, 2] = float("inf")
        with pytest.raises(DetectorError, match="feature 3"):
            detector.step(bad)
        for name, value in detector.state_dict().items():
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("method", [ADANEG, COVER, TANL_METHOD], ids=lambda m: m.name)
def test_rows_and_presets(method):
    assert get_method(method.name) is method
    for preset in method.presets.values():
        method.make_settings(preset)


@pytest.mark.parametrize("name", ["cover", "adaneg", "tanl"])
def test_yaml(name):
    path = Path(__file__).parents[2] / "configs" / "postprocessors" / f"{name}.yml"
    block = yaml.safe_load(path.read_text())["postprocessor"]
    assert list(block) == ["name", "APS_mode", "postprocessor_args", "postprocessor_sweep"]
    assert block["name"] == name and block["APS_mode"] is False
    method = get_method(name)
    args = block["postprocessor_args"]
    assert method.make_settings(args) == method.make_settings()
    for key, values in block["postprocessor_sweep"].items():
        for value in values:
            method.make_settings(args | {key.removesuffix("_list"): value})
    # OpenOOD casts command-line values to the type in the file: a float needs its dot there.
    plain = as_mapping(method.make_settings())
    assert all(type(args[key]) is type(plain[key]) for key in args)


@pytest.mark.parametrize("sample_adaptive", [True, False])
@pytest.mark.parametrize("eviction", ["entropy", "first_come"])
def test_adaneg_scores_an_image_beside_itself_as_a_batch_of_one_would(
    space, stream, sample_adaptive, eviction
):
    settings = AdaNegSettings(
        capacity=3, gap=0.1, groups=4, sample_adaptive=sample_adaptive, eviction=eviction
    )
    detector = AdaNeg(settings).fit(space)
    for part in (stream[:0], stream[:40]):
        if len(part):
            detector.step(part)
        state = detector.state_dict()
        said = detector.score(stream[40:])
        for row, pred, score in zip(stream[40:], *said, strict=True):
            alone = detector.step(row[None])
            detector.load_state_dict(state)
            torch.testing.assert_close(alone.score[0], score, atol=1e-5, rtol=0)
            assert alone.pred[0] == pred


def test_score_of_a_method_without_a_memory_is_that_of_a_step(space, stream):
    detector = MCM().fit(space)
    assert torch.equal(detector.step(stream).score, detector.score(stream).score)


def test_a_detector_has_its_space_from_fit_on(space):
    detector = MCM()
    with pytest.raises(DetectorError, match="MCM was not fitted; call fit"):
        _ = detector.space
    assert detector.fit(space).space is space and detector.fitted
    assert detector.negative_logits(space.labels).shape == (6, 31)

"""`interneg doctor --cost`: the arithmetic against counting batch by batch, and what it says."""

import math
from dataclasses import replace

import pytest
import torch

from openood_interneg.cli import cost, main
from openood_interneg.cli.cost_figures import derived_figures, kept_figures
from openood_interneg.cli.cost_measure import BATCH, FullBank, Timer
from openood_interneg.cli.cost_model import Affine, Figures, affine_through, predict
from openood_interneg.settings import SettingsError

FIGURES = Figures(
    device="CPU",
    origin="made up",
    batch=256,
    decode=0.004,
    encode=0.1,
    invert=Affine(0.4, 0.03),
    chunk=100,
    score=0.01,
    rescore=0.02,
    remember=Affine(0.3, 0.001),
    dim=512,
    weights=1000,
    working=24,
)


@pytest.mark.parametrize("gated", [0, 1, 26, 100, 101, 256])
def test_a_stream_costs_what_its_batches_cost_one_by_one(gated):
    batches, seconds = 40, {"invert": 0.0, "replay": 0.0}
    for _ in range(batches):
        left = gated
        while left:
            now = min(left, FIGURES.chunk)
            seconds["invert"] += 0.4 + 0.03 * now
            left -= now
        seconds["replay"] += 0.01 + (0.02 if gated else 0)
    found = predict(FIGURES, batches * 256, gated / 256)
    assert found.invert == pytest.approx(seconds["invert"])
    assert found.replay == pytest.approx(seconds["replay"])
    assert found.gated == batches * gated
    assert found.encode == pytest.approx(batches * 25.6)


def test_less_than_one_gated_image_a_batch_needs_a_pass_now_and_then():
    found = predict(FIGURES, 256 * 100, 0.25 / 256)
    assert found.invert == pytest.approx(25 * (0.4 + 0.03))
    assert found.replay == pytest.approx(100 * 0.01 + 25 * 0.02)


def test_rationeg_inverts_nothing_and_stores_no_inversions():
    found = predict(FIGURES, 2560, 0.5, method="rationeg")
    assert (found.invert, found.gated, found.inversions) == (0, 0, 0)
    assert found.replay == pytest.approx(10 * (0.3 + 0.128))


def test_devices_and_workers_divide_the_pure_maps_alone():
    one, two = (predict(FIGURES, 2560, 0.5, devices=n) for n in (1, 2))
    assert (two.encode, two.invert, two.replay) == (one.encode / 2, one.invert / 2, one.replay)
    slow = replace(FIGURES, decode=1.0)
    assert predict(slow, 100, 0, workers=4).encode == pytest.approx(25)


def test_the_line_goes_through_both_timings_and_never_below_zero():
    line = affine_through(8, 0.6, 64, 2.4)
    for images, seconds in ((8, 0.6), (64, 2.4)):
        assert line.fixed + images * line.each == pytest.approx(seconds)
    assert affine_through(8, 1.0, 64, 0.9) == Affine(1.0, 0.0)
    assert affine_through(8, 0.1, 64, 6.4) == Affine(0.0, 0.1)


def test_the_bank_that_is_timed_gates_exactly_the_share_asked_for():
    asked = []

    def inverter(features, ids):
        asked.append(len(features))
        return features

    full = FullBank(64, torch.device("cpu"), inverter)
    for share in (0.0, 0.1, 1.0):
        full.step(full.batch(share), round(BATCH * share))
    assert asked == [26, 256]


def clock(*seconds):
    """Each timing takes the next of these."""
    ticks = iter([tick for i, s in enumerate(seconds) for tick in (100 * i, 100 * i + s)])
    return lambda: next(ticks)


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ([5], 5),  # long: once
        ([1, 5], 3),
        ([1, 1.5, 0.5], 1),
        ([0.1, 0.1, 0.1, 0.2, 0.2], 0.1),  # short: until half a second is over
    ],
)
def test_a_timing_is_the_median_of_the_more_the_shorter(seconds, expected):
    calls = []
    assert Timer(clock(*seconds))(lambda: calls.append(1)) == pytest.approx(expected)
    assert len(calls) == len(seconds) + 1
    assert Timer(clock(*seconds))(lambda: None, warm_up=False) == pytest.approx(expected)


@pytest.mark.parametrize("name, dim", [("ViT-B/16", 512), ("ViT-L/14", 768)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("templates", ["photo", "imagenet80"])
def test_kept_figures_are_whole_and_a_gpu_is_derived_to_be_faster(name, dim, precision, templates):
    host = kept_figures(name, precision, templates)
    assert "measured" in host.origin and "AVX512" in host.device
    assert host.dim == dim and host.chunk > 1
    gpu = derived_figures(host, name, precision, templates)
    assert gpu is not None and "not measured" in gpu.origin
    for figures in (host, gpu):
        numbers = [figures.decode, figures.encode, figures.score, *vars(figures.invert).values()]
        assert all(math.isfinite(x) and x > 0 for x in numbers)
    assert gpu.encode < host.encode / 10 and gpu.invert.each < host.invert.each / 10


def test_figures_that_are_not_kept_name_the_remedy():
    with pytest.raises(SettingsError, match="RN50 fp32 photo.*--measure"):
        kept_figures("RN50", "fp32", "photo")


def doctor(capsys, monkeypatch, *args):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["interneg", "doctor", "--cost", *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    return " ".join(capsys.readouterr().out.split())


def test_cost_alone_measures_nothing_and_says_whose_figures_these_are(capsys, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda *a: pytest.fail("it measured"))
    said = doctor(capsys, monkeypatch, "--images", "1000")
    for part in ("InterNeg, CPU", "RatioNeg, H100 SXM (derived)", "AVX512", "batch of 256"):
        assert part in said
    assert "derived from FLOPs" in said and "This machine is: CPU" in said


def test_measure_asks_the_machine(capsys, monkeypatch):
    asked = []

    def measure(*args):
        asked.append(args)
        return replace(FIGURES, origin="measured here")

    monkeypatch.setattr(cost, "measure", measure)
    said = doctor(capsys, monkeypatch, "--measure", "--precision", "bf16", "--device", "cpu")
    assert [str(a) for a in asked[0]] == ["ViT-B/16", "cpu", "bf16", "photo"]
    assert "measured here" in said and "This machine is" not in said

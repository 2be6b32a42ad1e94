"""The soak of `benchmarks/`: a hundredth of it runs; what grows or resumes otherwise is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak

    return soak


def rows(memory=900.0, memory_step=0.0, state_step=0.0, alike=True):
    """Measurements of a stream of a million features, before and at each of its tenths."""
    return [
        {
            "features": at,
            "MiB": memory + memory_step * at / 100_000,
            "per second": 1000,
            "state KiB": 400.0 + state_step * at / 100_000,
            "resumed alike": alike or at != 300_000,
        }
        for at in (1_000, 50_000, *range(100_000, 1_000_001, 100_000))
    ]


def test_a_flat_stream_passes_and_a_leak_or_another_outcome_is_named(soak):
    assert soak.violations("m", rows())[1] == []
    assert soak.violations("m", rows(memory_step=1.0))[1] == []  # 8 MiB: within the allowance
    figures, wrong = soak.violations("m", rows(memory_step=4.0))
    assert figures["growth MiB"] == 32.0
    assert figures["slope, MiB per 100,000"] == pytest.approx(4.0)
    assert len(wrong) == 1 and "resident memory grows" in wrong[0]
    assert ["the state grows" in w for w in soak.violations("m", rows(state_step=1.0))[1]] == [True]
    assert soak.violations("m", rows(alike=False))[1] == ["m: not resumed alike"]
    early = rows()
    early[0]["state KiB"] = early[0]["MiB"] = 1.0  # what grows before the second tenth may
    assert soak.violations("m", early)[1] == []


@pytest.mark.slow
def test_a_hundredth_of_the_soak(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--methods", "interneg,rationeg"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["wrong"] == [] and list(found["cases"]) == ["interneg", "rationeg"]
    for case in found["cases"].values():
        assert len(case["points"]) > 10 and case["points"][-1]["features"] >= 10_000
    if found["images"]:
        assert found["images"]["images"] == 1000 and found["images"]["unreadable"] == 10

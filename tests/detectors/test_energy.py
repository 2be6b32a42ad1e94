"""Energy against slow versions written from the formulas, and its texts."""

import math

import pytest
import torch
from static_helpers import (
    cosine,
    rows,
    same,
)

from openood_interneg.detectors.energy import Energy, EnergySettings
from openood_interneg.detectors.maxlogit import MaxLogit


@pytest.mark.parametrize("tau", [1.0, 0.01])
def test_energy(image_space, image_stream, tau):
    scores = Energy(EnergySettings(tau=tau)).fit(image_space).step(image_stream)
    expected = []
    for h in rows(image_stream):
        c = [v / tau for v in cosine(h, image_space.labels)]
        expected.append(tau * (max(c) + math.log(sum(math.exp(v - max(c)) for v in c))))
    same(scores.score, expected)


def test_energy_at_a_low_temperature_is_maxlogit(image_space, image_stream):
    low = Energy(EnergySettings(tau=1e-4)).fit(image_space).step(image_stream).score
    torch.testing.assert_close(
        low, MaxLogit().fit(image_space).step(image_stream).score, atol=1e-3, rtol=0
    )

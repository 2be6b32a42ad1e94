"""False alarms and OOD caught: counted image by image."""

import numpy as np
import pytest

from openood_interneg.evaluation.metrics import ood_metrics
from openood_interneg.evaluation.stream_metrics import Judged, set_figures, sliding_shares


@pytest.fixture
def judged():
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 3, 90)
    parts = np.repeat([0, 1, 2], 30)
    owners[(parts == 0) & (owners == 2)] = 1  # the second set comes from part 1 on
    return Judged(
        owners,
        parts,
        np.where(owners == 0, rng.integers(0, 4, 90), -1),
        rng.integers(0, 4, 90),
        rng.random(90).astype(np.float32),
        rng.uniform(0, 0.3, 90).astype(np.float32),
        0.2,
        rng.random(90).astype(np.float32),
    )


def test_rates_are_those_of_counting(judged):
    figures = set_figures(judged, 2)
    ways = {
        "": lambda i: judged.score[i] < judged.gamma[i],
        ", fixed": lambda i: float(judged.score[i]) < 0.2,
        ", p": lambda i: float(judged.p[i]) <= 0.05,
    }
    for end, unknown in ways.items():
        for name, owner in (("False alarms", 0), ("OOD caught", 2)):
            own = [i for i in range(90) if judged.owners[i] == owner]
            rate = 100 * sum(map(unknown, own)) / len(own)
            assert figures[name + end] == pytest.approx(rate, abs=1e-5)
            for piece, value in enumerate(figures["along"][name + end]):
                inside = [i for i in own if i // 9 == piece]
                if not inside:
                    assert value is None
                else:
                    expected = 100 * sum(map(unknown, inside)) / len(inside)
                    assert value == pytest.approx(expected, abs=1e-3)
        within = abs(figures[f"False alarms{end}"] - 5) <= 2
        assert figures[f"Within 2{end}"] == (100.0 if within else 0.0)


def test_a_set_is_judged_in_the_parts_in_which_it_comes(judged):
    figures = set_figures(judged, 2)
    own = [i for i in range(30, 90) if judged.owners[i] == 0]
    ood = [i for i in range(90) if judged.owners[i] == 2]
    assert min(ood) >= 30
    expected = ood_metrics(
        judged.score[own], judged.score[ood], judged.pred[own], judged.labels[own]
    )
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-5)


def test_without_p_values_there_are_no_figures_by_them(judged):
    plain = set_figures(Judged(**{**vars(judged), "p": None}), 1)
    assert not [name for name in plain if name.endswith(", p")]


def test_windows_slide_from_the_first_fifth_to_the_last():
    unknown = np.array([True] * 2 + [False] * 7 + [True])
    assert sliding_shares(unknown, 9) == [100, 50, 0, 0, 0, 0, 0, 0, 50]
    assert sliding_shares(unknown, 2) == [100, 50]
    assert sliding_shares(unknown[:3], 5) == [100, 100, 100, 0, 0]

"""The concentration of the shots' kernel against loops."""

import numpy as np
import pytest
import torch

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.shots import (
    CONCENTRATIONS,
    first_of_each_class,
    leave_one_out_concentration,
)


def cosines(classes: list[int], seed: int, spread: float) -> torch.Tensor:
    """Cosines (n, n) of rows around one centre per class."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(classes) + 1, 8))
    rows = centres[classes] + spread * rng.standard_normal((len(classes), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy((rows @ rows.T).astype(np.float32))


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_the_concentration_is_the_best_of_all_by_loops(spread):
    """The last class has one image: no other can vote for it, so it does not count."""
    classes = [0, 1, 0, 2, 1, 2, 0, 3]
    cosine = cosines(classes, 1, spread)
    fits = []
    for k in CONCENTRATIONS:
        logs = []
        for i, label in enumerate(classes):
            own = total = 0.0
            for j, other in enumerate(classes):
                if i != j:
                    mass = np.exp(k * (float(cosine[i, j]) - 1))
                    total += mass
                    own += mass if other == label else 0.0
            if own:
                logs.append(np.log(own / total))
        assert len(logs) == 7
        fits.append(np.mean(logs))
    found = leave_one_out_concentration(cosine, torch.tensor(classes))
    # Where the classes lie far apart, several are equally good but for rounding.
    assert fits[CONCENTRATIONS.tolist().index(found)] == pytest.approx(max(fits), abs=1e-12)


def test_one_image_of_each_class_is_refused():
    with pytest.raises(DetectorError, match="two ID images of a class"):
        leave_one_out_concentration(torch.eye(3), torch.arange(3))


def test_the_first_rows_of_each_class_are_kept_in_their_order():
    classes = torch.tensor([2, 0, 2, 2, 1, 0])
    rows, kept = first_of_each_class(torch.arange(6.0)[:, None], classes, 2)
    assert rows[:, 0].tolist() == [0, 1, 2, 4, 5] and kept.tolist() == [2, 0, 2, 1, 0]

"""A picture that the tests of corruptions and of views share."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pixels():
    """A 64 x 64 picture with edges, colours, black and white."""
    x = np.zeros((64, 64, 3), dtype=np.float32)
    x[..., 0] = np.linspace(0, 1, 64)
    x[..., 1] = np.linspace(1, 0, 64)[:, None]
    x[10:30, 10:40] = (0.8, 0.1, 0.2)
    x[40:60, 5:25] = 1
    x[40:60, 30:50] = 0
    return x

"""What the tests of `score` and of watched images share: one space that most methods fit to."""

import torch
import torch.nn.functional as F
from helpers import unit_rows

from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.negatives.text_space import TextSpace

SIZE, CLASSES, SHOTS = 16, 5, 6
TURN = torch.linalg.qr(unit_rows(SIZE, SIZE, 9))[0]

# Sizes at which memories of a short stream fill, and gates that let some of it in.
SMALL = {
    "interneg": {"bank_capacity": 8, "beta": 0.6},
    "tins": {"bank_capacity": 8, "buffer_capacity": 6, "beta": 0.6, "groups": 3},
    "rationeg": {"memory_capacity": 12},
    "adaneg": {"capacity": 3, "gap": 0.1, "groups": 4},
    "tanl": {"beta": 9, "capacity": 12, "gap": 0.2, "alpha": 0.5},
    "csp": {"groups": 7},
    "locoop": {"score": "mcm"},
    "neglabel": {"groups": 7},
}
WITH_FILES = {"ants"}  # remembers, and needs captions: tested in test_ants.py


def around(centres, spread, seed):
    return F.normalize(centres + spread * unit_rows(*centres.shape, seed), dim=-1)


def whole_space(seed=0) -> TextSpace:
    """Labels, negatives, proxies, shots, ID features and noise."""
    labels = unit_rows(CLASSES, SIZE, seed + 1)
    proxies = around(labels, 0.4, seed + 2)
    own = torch.arange(CLASSES).repeat_interleave(SHOTS)
    shots = around(labels[own], 0.8, seed + 4)
    return TextSpace(
        labels=labels,
        logit_scale=10.0,
        negatives=unit_rows(23, SIZE, seed + 3),
        proxies=proxies,
        base=(labels * proxies).sum(1),
        image_base=torch.full((CLASSES,), 0.6),
        shots=shots,
        shot_labels=own,
        extra={
            "noise": unit_rows(15, SIZE, seed + 5),
            "id_features": shots,
            "id_labels": own,
        },
    )


def images(space: TextSpace, count: int, seed: int) -> torch.Tensor:
    """(count, D): a half near labels, a quarter near negatives, a quarter near one negative."""
    at = torch.arange(count)
    centres = torch.where(
        (at % 2 == 0)[:, None], space.labels[at % CLASSES], space.negatives[at % 23]
    )
    centres[3::4] = space.negatives[0]
    rows = around(centres, 0.7, seed)
    return rows[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


def calibration(space: TextSpace, count: int = 40) -> torch.Tensor:
    """(count, D) ID images of their own."""
    return around(space.labels[torch.arange(count) % CLASSES], 0.8, 77)


def made(name: str, space: TextSpace, **values) -> Detector:
    """A fitted detector that inverts with a rotation."""
    method = get_method(name)
    settings = method.make_settings(SMALL.get(name, {}) | values)
    return method.make(settings, lambda h, ids: h @ TURN).fit(space)


def names_with_memory() -> list[str]:
    """Methods whose detectors keep something of the stream."""
    return [
        method.name
        for method in list_methods()
        if method.detector.state_dict is not Detector.state_dict and method.name not in WITH_FILES
    ]

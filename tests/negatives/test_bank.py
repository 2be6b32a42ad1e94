"""The bank holds the best of everything that it was offered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openood_interneg.negatives.bank import NegativeBank


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 12), st.data())
def test_bank_is_the_top_k_of_everything_offered(values, capacity, data):
    """Whatever the batching; the first offered stays on ties."""
    bank = NegativeBank(capacity, 1)
    rest, offered = list(enumerate(values)), 0
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        part, rest = rest[:size], rest[size:]
        rows = torch.tensor([[float(i)] for i, _ in part])
        bank.offer(rows, torch.tensor([float(v) for _, v in part]), torch.arange(len(part)))
        offered += size
        assert bool((bank.deviation.diff() <= 0).all())
    best = sorted(enumerate(values), key=lambda pair: (-pair[1], pair[0]))[:capacity]
    assert bank.features[:, 0].tolist() == [float(i) for i, _ in best]
    assert bank.offered == len(values)


def test_bank_round_trip_and_refusals():
    bank = NegativeBank(3, 2)
    bank.offer(torch.eye(2), torch.tensor([1.0, 2.0]), torch.tensor([5, 6]))
    other = NegativeBank(3, 2)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.features, bank.features) and other.ids.tolist() == [6, 5]
    with pytest.raises(ValueError, match="size 2, this model's are 3"):
        NegativeBank(3, 3).load_state_dict(bank.state_dict())
    with pytest.raises(ValueError, match="holds 2 embeddings, bank_capacity is 1"):
        NegativeBank(1, 2).load_state_dict(bank.state_dict())

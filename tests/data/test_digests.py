"""Digests: their values are in caches and saved states, so they never change."""

import torch

from openood_interneg.data.digests import (
    digest,
    extend_digest,
    tensor_digest,
    tensors_digest,
    texts_digest,
)


def test_values_are_those_in_caches_and_states():
    rows = torch.arange(24.0).reshape(2, 3, 4).transpose(0, 1)
    named = {"b": rows, "a": torch.empty(0, 5), "c": torch.tensor(3)}
    assert digest({"a": [1, None]}) == "f92e3e3216a21d88fcb80bc2738fb6f8"
    assert texts_digest(["a", "b\udc80"]) == "d7b3d821368aaec88079f8a665160ce3"
    assert extend_digest(extend_digest("", "x"), "y") == "7579622bb4329dd7ba28d9565e424f74"
    assert tensor_digest(rows) == "c366bf3c0e455e8a39909ce798b98f2f"
    assert tensors_digest(named) == "d2042742c74968dae84001d27165f36a"


def test_order_and_boundaries_of_texts_count():
    seen = {texts_digest(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"])}
    assert len(seen) == 4

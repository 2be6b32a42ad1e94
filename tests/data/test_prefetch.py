"""Encoding ahead changes neither order nor results, and errors come when their turn comes."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openood_interneg.data.prefetch import encoded_ahead
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.factory import load_backbone

CPU = torch.device("cpu")


def doubled(batch: int) -> torch.Tensor:
    return torch.tensor(2 * batch)


@given(st.lists(st.integers(0, 9), max_size=8), st.booleans())
def test_order_and_results(batches, overlap):
    found = list(encoded_ahead(batches, doubled, CPU, overlap=overlap))
    assert found == [(batch, 2 * batch) for batch in batches]


def test_one_batch_ahead_and_no_more():
    read, encoder = [], set()

    def batches():
        for number in range(5):
            read.append(number)
            yield number

    def encode(batch):
        encoder.add(threading.current_thread().name)
        return doubled(batch)

    for place, _ in enumerate(encoded_ahead(batches(), encode, CPU, overlap=True)):
        until = time.monotonic() + 10
        while len(read) < min(place + 2, 5) and time.monotonic() < until:
            time.sleep(0.001)
        assert len(read) == min(place + 2, 5)
    assert encoder == {"encode-ahead_0"}


def test_on_a_cpu_nothing_is_read_ahead():
    read = []
    batches = (read.append(number) or number for number in range(3))
    for place, _ in enumerate(encoded_ahead(batches, doubled, CPU)):
        assert len(read) == place + 1


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_comes_after_the_batches_before_it(overlap):
    def encode(batch):
        if batch == 2:
            raise ValueError("batch 2")
        return doubled(batch)

    seen = []
    with pytest.raises(ValueError, match="batch 2"):
        for batch, _ in encoded_ahead(range(5), encode, CPU, overlap=overlap):
            seen.append(batch)
    assert seen == [0, 1]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_caller_may_leave_early(overlap):
    before = threading.active_count()
    stream = encoded_ahead(range(1000), doubled, CPU, overlap=overlap)
    assert next(stream) == (0, 0)
    stream.close()
    assert threading.active_count() == before


def test_a_compiled_tower_is_the_image_towers_and_has_its_own_name(monkeypatch):
    compiled = []

    def compile_(tower):
        compiled.append(tower)
        return lambda images: tower(images)

    monkeypatch.setattr(torch, "compile", compile_)
    plain, clip = (load_backbone("miniature", precision=p) for p in ("fp32", "fp32+compile"))
    size = clip.preprocess.size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        assert torch.equal(clip.encode_image(images), plain.encode_image(images))
    assert len(compiled) == 1 and clip.dtype == torch.float32
    assert clip.precision != plain.precision, "the caches of both would be one"


def test_where_nothing_can_be_compiled_the_precision_to_take_is_named(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def compile_(tower):
        def fails(images):
            raise TorchDynamoException("no C++ compiler")

        return fails

    monkeypatch.setattr(torch, "compile", compile_)
    clip = load_backbone("miniature", precision="bf16+compile")
    size = clip.preprocess.size
    with pytest.raises(SettingsError, match=r"no C\+\+ compiler.*use 'bf16'"):
        clip.encode_image(torch.zeros(1, 3, size, size))

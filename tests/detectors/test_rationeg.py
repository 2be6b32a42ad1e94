"""RatioNeg against golden vectors, a slow version written differently, and what must hold."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.excess import BINS, ExcessDensity, decreasing_fit
from openood_interneg.detectors.rationeg import (
    RatioNeg,
    RatioNegSettings,
    text_ratio,
)
from openood_interneg.negatives.text_space import TextSpace

GOLDEN = Path(
    os.environ.get("INTERNEG_GOLDEN_RATIONEG")
    or Path(__file__).resolve().parents[1] / "golden" / "rationeg"
)
FILES = sorted(GOLDEN.glob("*.npz"))


def unit(rng: np.random.Generator, *shape: int, around: np.ndarray | None = None) -> np.ndarray:
    rows = rng.standard_normal(shape) + (0 if around is None else 2.0 * around)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def world(seed=0, classes=4, shots=6, negatives=20, dim=16, stream=80):
    """A space of random unit rows and a stream, half of it near the classes."""
    rng = np.random.default_rng(seed)
    centres = unit(rng, classes, dim)
    labels = unit(rng, classes, dim, around=centres)
    own = np.repeat(np.arange(classes), shots)
    ood = unit(rng, 1, dim)
    half = stream // 2
    features = np.concatenate(
        [
            unit(rng, half, dim, around=2 * centres[rng.integers(0, classes, half)]),
            unit(rng, stream - half, dim, around=2 * ood),
        ]
    )[rng.permutation(stream)]
    space = TextSpace(
        labels=torch.from_numpy(labels),
        logit_scale=20.0,
        negatives=torch.from_numpy(unit(rng, negatives, dim)),
        shots=torch.from_numpy(unit(rng, len(own), dim, around=2 * centres[own])),
        shot_labels=torch.from_numpy(own),
    )
    return space, torch.from_numpy(features)


def fed(detector, features, batch=32):
    """Scores and p-values of a stream."""
    parts = [detector.step(part) for part in features.split(batch)]
    return torch.cat([part.score for part in parts]), torch.cat([part.p for part in parts])


# ---- golden vectors ------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path):
    arrays = dict(np.load(path))
    tensor = {k: torch.from_numpy(v) for k, v in arrays.items() if v.ndim}
    space = TextSpace(
        labels=tensor["labels"],
        logit_scale=float(arrays["logit_scale"]),
        negatives=tensor["negatives"],
        shots=tensor["shots"],
        shot_labels=tensor["shot_labels"],
    )
    batch = int(arrays["batch_size"])
    detector = RatioNeg(
        RatioNegSettings(
            memory_capacity=int(arrays["K"]),
            prior_weight=float(arrays["n0"]),
            update="sample" if batch == 1 else "batch",
        )
    ).fit(space)
    assert detector.concentration == pytest.approx(float(arrays["expected_concentration"]))
    score, p = fed(detector, tensor["features"], 37 if batch == 1 else batch)
    ratio = text_ratio(
        tensor["features"] @ space.labels.t() * space.logit_scale,
        (tensor["features"] @ space.negatives.t() * space.logit_scale).double().logsumexp(1),
    )
    np.testing.assert_allclose(ratio, arrays["expected_text_ratio"], atol=1e-4)
    np.testing.assert_allclose(score, arrays["expected_scores"], atol=1e-4)
    np.testing.assert_allclose(p, arrays["expected_p"], atol=1e-6)
    weights = detector.memory.state_dict()["weights"].numpy()
    np.testing.assert_allclose(weights, arrays["expected_memory_weights"], atol=1e-6)
    shots = detector._static - detector._ratio(
        detector._density, detector.memory.evidence, detector.memory.mass
    )
    np.testing.assert_allclose(shots, arrays["expected_shots"], atol=1e-4)


def test_golden_vectors_are_there():
    assert FILES, f"no golden vectors in {GOLDEN}"


# ---- brute force ---------------------------------------------------------------------------


def slow_density(counts: np.ndarray) -> np.ndarray:
    """Grenander's estimate as the steepest chord from each bin's left end, by definition."""
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    size = len(counts)
    majorant = below.copy()
    for t in range(1, size):
        left, right = np.arange(t)[:, None], np.arange(t + 1, size + 1)[None]
        rise = (below[right] - below[left]) / (right - left)
        majorant[t] = max(below[t], (below[left] + rise * (t - left)).max())
    return np.diff(majorant) * size


def slow_stream(space, features, capacity, prior, *, batch=None, refresh=False):
    """One feature at a time, float64, nothing kept but lists."""
    labels, negatives, shots = (
        np.asarray(part, dtype=np.float64) for part in (space.labels, space.negatives, space.shots)
    )
    classes = np.asarray(space.shot_labels)
    stream = np.asarray(features, dtype=np.float64)
    s = space.logit_scale

    def a(h):
        own = np.exp(s * (labels @ h - 1))
        return np.log(own.max() / (own.sum() + np.exp(s * (negatives @ h - 1)).sum()))

    count = len(shots)
    fits = []
    for k in np.geomspace(2, 200, 47):
        total = 0.0
        for i in range(count):
            kernel = np.exp(k * (shots @ shots[i] - 1))
            kernel[i] = 0
            total += np.log(kernel[classes == classes[i]].sum() / kernel.sum())
        fits.append((total, -k))
    k = -max(fits)[1]

    def kernel(x, y):
        return np.exp(k * (x @ y - 1))

    p_shots = [
        np.mean([kernel(shots[j], shots[i]) for j in range(count) if j != i]) for i in range(count)
    ]
    memory: list[list] = []  # [feature, weight, place in the stream, pending]

    def ratio(h, p_id, without=None):
        rows = [row for row in memory if row[2] != without]
        mass = sum(row[1] for row in rows)
        return np.log(
            p_id * (prior + mass) / (prior * p_id + sum(r[1] * kernel(r[0], h) for r in rows))
        )

    def null():
        return np.array([a(shots[i]) + ratio(shots[i], p_shots[i]) for i in range(count)])

    seen: list[tuple[int, float]] = []
    density = np.ones(BINS)
    scores, ps = [], []
    for i, h in enumerate(stream):
        p_id = np.mean([kernel(x, h) for x in shots])
        raw, shot_scores = a(h) + ratio(h, p_id), null()
        scores.append((raw - shot_scores.mean()) / shot_scores.std())
        p = (1 + sum(x <= raw for x in shot_scores)) / (count + 1)
        ps.append(p)
        seen.append((int(np.ceil(p * BINS)) - 1, i))
        if i < 100 or i % 10 == 0:
            counts = np.full(BINS, prior / BINS)
            for place, when in seen:
                counts[place] += (1 - 1 / capacity) ** (i - when)
            density = slow_density(counts)
        weight = max(0.0, 1 - 1 / density[seen[-1][0]])
        if refresh:
            for row in memory:
                row[1] *= 1 - 1 / capacity
        if weight > 0.01:
            if refresh:
                parts = [row[1] * kernel(row[0], h) for row in memory]
                for row, part in zip(memory, parts, strict=True):
                    row[3] += weight * part / (prior * p_id + sum(parts))
            memory.append([h, weight, i, 0.0])
            if len(memory) > capacity:
                memory.pop(0)
        if refresh and i % 10 == 0:
            for row in memory:
                row[1], row[3] = row[1] + row[3], 0.0
        if batch and ((i + 1) % batch == 0 or i + 1 == len(stream)):
            shot_scores = null()
            for j in range(i - i % batch, i + 1):
                p_id = np.mean([kernel(x, stream[j]) for x in shots])
                raw = a(stream[j]) + ratio(stream[j], p_id, without=j)
                scores[j] = (raw - shot_scores.mean()) / shot_scores.std()
    return np.array(scores), np.array(ps), [row[1] for row in memory]


@pytest.mark.parametrize(
    "batch, capacity, refresh",
    [(None, 500, False), (16, 500, False), (16, 7, False), (None, 12, True), (16, 12, True)],
)
def test_stream_against_a_slow_version(batch, capacity, refresh):
    space, features = world(stream=120)
    detector = RatioNeg(
        RatioNegSettings(
            memory_capacity=capacity, update="batch" if batch else "sample", refresh=refresh
        )
    ).fit(space)
    expected, expected_p, weights = slow_stream(
        space, features, capacity, 10.0, batch=batch, refresh=refresh
    )
    score, p = fed(detector, features, batch or 50)
    np.testing.assert_allclose(p, expected_p, atol=1e-6)
    np.testing.assert_allclose(score, expected, atol=2e-4)
    np.testing.assert_allclose(detector.memory.state_dict()["weights"], weights, atol=1e-5)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=120))
def test_the_decreasing_fit_is_scipys(values):
    ours = decreasing_fit(np.array(values))
    expected = isotonic_regression(values, increasing=False).x
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60))
@settings(max_examples=25, deadline=None)
def test_density_is_grenanders(ps):
    excess = ExcessDensity(prior=10.0, capacity=500, shots=50)
    weights = [excess.weight(p) for p in ps]
    np.testing.assert_allclose(excess.density, slow_density(excess.counts + 10.0 / BINS), atol=1e-9)
    assert all(0 <= w < 1 for w in weights)
    assert (np.diff(excess.density) <= 1e-9).all()
    assert excess.density.mean() == pytest.approx(1.0)


def test_uniform_p_values_leave_no_weight():
    excess = ExcessDensity(prior=10.0, capacity=10_000, shots=50)
    ps = (np.random.default_rng(0).permutation(2000) + 0.5) / 2000
    weights = [excess.weight(p) for p in ps]
    assert max(weights[-200:]) < 0.35 and np.mean(weights[-200:]) < 0.05


def test_a_band_takes_less_than_no_band():
    ps = np.random.default_rng(1).random(300) ** 1.3
    plain = ExcessDensity(10.0, 500, 50)
    band = ExcessDensity(10.0, 500, 50, band=True)
    for p in ps:
        plain_weight, band_weight = plain.weight(p), band.weight(p)
    assert sum(band.density > 1.01) < sum(plain.density > 1.01)
    assert band_weight <= plain_weight


# ---- properties ----------------------------------------------------------------------------


def test_permuted_shots_and_negatives_change_nothing():
    space, features = world()
    score, p = fed(RatioNeg().fit(space), features)
    order = torch.randperm(len(space.shots), generator=torch.Generator().manual_seed(1))
    others = torch.randperm(len(space.negatives), generator=torch.Generator().manual_seed(2))
    permuted = replace(
        space,
        shots=space.shots[order],
        shot_labels=space.shot_labels[order],
        negatives=space.negatives[others],
    )
    again, again_p = fed(RatioNeg().fit(permuted), features)
    torch.testing.assert_close(again, score, atol=1e-4, rtol=0)
    torch.testing.assert_close(again_p, p)


def test_an_empty_memory_leaves_the_text_ratio():
    space, features = world()
    detector = RatioNeg().fit(space)
    first = detector.step(features[:1]).score
    a = text_ratio(
        features[:1] @ space.labels.t() * space.logit_scale,
        (features[:1] @ space.negatives.t() * space.logit_scale).double().logsumexp(1),
    )
    shots = text_ratio(
        space.shots @ space.labels.t() * space.logit_scale,
        (space.shots @ space.negatives.t() * space.logit_scale).double().logsumexp(1),
    )
    # With update: batch an image is scored without its own row, so against the empty memory; only
    # the shots' scale has moved with it.
    causal = RatioNeg(RatioNegSettings(update="sample")).fit(space).step(features[:1]).score
    expected = (a - shots.mean()) / shots.std(unbiased=False)
    torch.testing.assert_close(causal, expected.float(), atol=1e-4, rtol=0)
    assert torch.isfinite(first).all()


def test_an_images_own_row_never_lowers_it():
    """Scored with its own row in the memory it would be lower than it is in its batch."""
    space, features = world()
    detector = RatioNeg().fit(space)
    fed(detector, features)
    batched = detector.step(features[:16]).score
    for i in range(16):
        causal = RatioNeg(RatioNegSettings(update="sample")).fit(space)
        causal.load_state_dict(detector.state_dict())
        assert float(batched[i]) >= float(causal.step(features[i : i + 1]).score) - 1e-4


@pytest.mark.parametrize("update", ["sample", "batch"])
@pytest.mark.parametrize("refresh", [False, True])
def test_a_resumed_stream_goes_on_alike(update, refresh):
    space, features = world(stream=160)
    chosen = RatioNegSettings(memory_capacity=20, update=update, refresh=refresh)
    whole = RatioNeg(chosen).fit(space)
    expected, _ = fed(whole, features)
    first, second = RatioNeg(chosen).fit(space), RatioNeg(chosen).fit(space)
    head, _ = fed(first, features[:96])
    second.load_state_dict(first.state_dict())
    tail, _ = fed(second, features[96:])
    torch.testing.assert_close(torch.cat([head, tail]), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("refresh", [False, True])
def test_what_is_known_at_watched_images_is_what_the_memory_gives_there(refresh):
    """Added row by row and taken off again over a long stream; a state that is loaded sums anew."""
    space, features = world(stream=4000)
    chosen = RatioNegSettings(memory_capacity=50, update="sample", refresh=refresh)
    detector = RatioNeg(chosen).fit(space)
    watched = world(seed=3, stream=30)[1]
    detector.watch(watched, 0.95)
    fed(detector, features)
    memory = detector.memory
    cosine = watched.double().numpy() @ memory.rows.double().numpy().T
    expected = (np.exp(memory.concentration * (cosine - 1)) * memory.weights).sum(axis=1)
    assert memory.remembered > 1000
    known = memory.evidence[len(memory.shots) :]
    np.testing.assert_allclose(known, expected, rtol=1e-9)
    second = RatioNeg(chosen).fit(space)
    second.watch(watched, 0.95)
    second.load_state_dict(detector.state_dict())
    assert second.threshold == pytest.approx(detector.threshold, rel=1e-7)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_causal_scores_do_not_depend_on_the_cut(size):
    space, features = world(stream=130)
    chosen = RatioNegSettings(memory_capacity=15, update="sample")
    expected, expected_p = fed(RatioNeg(chosen).fit(space), features, 130)
    score, p = fed(RatioNeg(chosen).fit(space), features, size)
    torch.testing.assert_close(score, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(p, expected_p)


def test_reset_forgets_everything():
    space, features = world()
    detector = RatioNeg().fit(space)
    first, _ = fed(detector, features)
    detector.reset()
    again, _ = fed(detector, features)
    torch.testing.assert_close(again, first)


def test_p_values_of_id_images_are_uniform():
    """The built-in rule p <= 0.05 rejects about 5 % of ID images, whatever the stream did."""
    rng = np.random.default_rng(5)
    centres = unit(rng, 5, 24)
    labels = unit(rng, 5, 24, around=centres)

    def draw(count):
        which = rng.integers(0, 5, count)
        return torch.from_numpy(unit(rng, count, 24, around=2 * centres[which])), which

    shots, own = draw(400)
    space = TextSpace(
        labels=torch.from_numpy(labels),
        logit_scale=20.0,
        negatives=torch.from_numpy(unit(rng, 30, 24)),
        shots=shots,
        shot_labels=torch.from_numpy(own),
    )
    detector = RatioNeg(RatioNegSettings(update="sample", shots_per_class=1000)).fit(space)
    features, _ = draw(1500)
    _, p = fed(detector, features, 500)
    assert 0.03 < float((p <= 0.05).float().mean()) < 0.075


def test_without_id_images_it_says_what_it_needs():
    space, _ = world()
    with pytest.raises(DetectorError, match="ID images"):
        RatioNeg().fit(replace(space, shots=None, shot_labels=None))


def test_a_state_of_another_detector_is_refused():
    space, features = world()
    detector = RatioNeg().fit(space)
    fed(detector, features)
    state = detector.state_dict()
    with pytest.raises(DetectorError, match="lacks"):
        RatioNeg().fit(space).load_state_dict({"memory.rows": state["memory.rows"]})
    small = RatioNeg(RatioNegSettings(memory_capacity=1)).fit(space)
    with pytest.raises(DetectorError, match="holds at most 1"):
        small.load_state_dict(state)
    broken = state | {"memory.weights": state["memory.weights"] * float("nan")}
    with pytest.raises(DetectorError, match="NaN"):
        RatioNeg().fit(space).load_state_dict(broken)

"""CLIPScope against slow versions written from the formulas, and its texts."""

from collections import Counter

import numpy as np
import pytest
import torch
from static_helpers import (
    CLASSES,
    ID_NAMES,
    NAMES,
    NOUNS,
    SCALE,
    FakeSource,
    cosine,
    make,
    rows,
    same,
    softmax,
)

from openood_interneg.detectors import clipscope
from openood_interneg.detectors.clipscope import CLIPScope, CLIPScopeSettings, earlier_same
from openood_interneg.detectors.mcm import MCM, MCMSettings
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method


@pytest.mark.parametrize("update", ["sample", "batch"])
def test_clipscope(image_space, image_stream, update):
    detector = CLIPScope(CLIPScopeSettings(update=update)).fit(image_space)
    parts = [detector.step(chunk).score for chunk in image_stream.split(11)]
    counts, expected = [1] * CLASSES, []
    for chunk in image_stream.split(11):
        kept = list(counts)
        for h in rows(chunk):
            z = [SCALE * c for c in cosine(h, image_space.labels)]
            joint = softmax(z + [SCALE * c for c in cosine(h, image_space.negatives)])
            k = int(np.argmax(z))
            now = counts if update == "sample" else kept
            expected.append(softmax(z)[k] * sum(joint[:CLASSES]) * sum(now) / now[k])
            counts[k] += 1
    same(torch.cat(parts), expected)
    assert detector.state_dict()["counts"].tolist() == counts


def test_earlier_same():
    for length in (0, 1, 50):
        pred = torch.randint(5, (length,), generator=torch.Generator().manual_seed(7))
        seen, expected = Counter(), []
        for p in pred.tolist():
            expected.append(seen[p])
            seen[p] += 1
        assert earlier_same(pred).tolist() == expected


def test_clipscope_with_frozen_counts_is_msp_times_id_mass_times_classes(image_space, image_stream):
    detector = CLIPScope(CLIPScopeSettings(update="batch")).fit(
        image_space
    )  # counts 1 in one batch
    msp = MCM(MCMSettings(tau=1 / SCALE)).fit(image_space).step(image_stream).score
    mass = NegLabel(NegLabelSettings()).fit(image_space).step(image_stream).score
    torch.testing.assert_close(detector.step(image_stream).score, msp * mass * CLASSES)


def test_clipscope_per_batch_depends_on_the_cut(image_space, image_stream):
    detector = make("clipscope", update="batch").fit(image_space)
    whole = detector.step(image_stream).score
    detector.reset()
    parts = torch.cat([detector.step(chunk).score for chunk in image_stream.split(7)])
    assert float((whole - parts).abs().max()) > 0.1


def test_clipscope_depends_on_the_order_and_only_there(image_space, image_stream):
    for name in NAMES:
        detector = make(name).fit(image_space)
        forward = detector.step(image_stream).score
        detector.reset()
        backward = detector.step(image_stream.flip(0)).score.flip(0)
        assert torch.allclose(forward, backward) != get_method(name).order_dependent


def test_clipscope_texts(corpus_file):
    source = FakeSource([*ID_NAMES, *(f"class {i}" for i in range(35))])  # rank ceil(0.05 40) = 2
    settings = CLIPScopeSettings(corpus=corpus_file, num_negatives=9)
    found = source.space_for(get_method("clipscope"), settings)
    nouns = [w for w in NOUNS if w not in ("cat", "ship")]
    labels = source.labels("a photo of a {}")
    ranked = []
    for word, e in zip(nouns, rows(source.backbone.encode_prompts(nouns, ["the {}"])), strict=True):
        ranked.append((sorted(cosine(e, labels))[-2], word))
    ranked.sort()
    far, near = [w for _, w in ranked[:5]], [w for _, w in ranked[::-1][:4]]
    assert list(found.negative_words) == far + near
    expected = [
        source.backbone.encode_prompts(far, ["a photo of a {}"]),
        source.backbone.encode_prompts(near, ["a photo of {}"]),
    ]
    torch.testing.assert_close(found.negatives, torch.cat(expected))


def test_clipscope_with_few_nouns_uses_each_once(corpus_file):
    with pytest.warns(UserWarning, match="only 28 nouns"):
        found = clipscope.space(FakeSource(ID_NAMES), CLIPScopeSettings(corpus=corpus_file))
    assert sorted(found.negative_words) == sorted(set(NOUNS) - {"cat", "ship"})

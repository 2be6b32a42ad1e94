"""What the tests of methods without a learned memory share."""

import math
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace

SIZE, CLASSES, NEGATIVES, SCALE, PER_CLASS = 24, 6, 30, 20.0, 12

NAMES = [
    "energy", "maxlogit", "mahalanobis", "clip_knn", "neglabel", "csp", "eoe", "clipscope",
]  # fmt: skip


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def around(centres, spread, seed):
    return F.normalize(centres + spread * unit(*centres.shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def image_space():
    labels = unit(CLASSES, SIZE, seed=1)
    own = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    return TextSpace(
        labels=labels,
        logit_scale=SCALE,
        negatives=unit(NEGATIVES, SIZE, seed=2),
        extra={"id_features": around(labels[own], 0.8, 3), "id_labels": own},
    )


@pytest.fixture(scope="module")
def image_stream(image_space):
    """ID images, OOD images, and images in between, shuffled: (48, D)."""
    id_images = around(image_space.labels[torch.arange(18) % CLASSES], 0.8, 4)
    ood_images = around(image_space.negatives[torch.arange(18)], 0.8, 5)
    between = F.normalize(
        image_space.labels[torch.arange(12) % 2] + image_space.negatives[:12], dim=-1
    )
    every = torch.cat([id_images, ood_images, between])
    return every[torch.randperm(48, generator=torch.Generator().manual_seed(6))]


def make(name, **values):
    """A detector with settings that fit the small image_space."""
    small = {"csp": {"groups": 7}, "neglabel": {"groups": 7}}
    method = get_method(name)
    return method.make(method.make_settings(small.get(name, {}) | values))


def same(actual, expected, tolerance=2e-5):
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


def rows(tensor):
    return tensor.double().numpy()


def cosine(h, texts):
    return [float(np.dot(h, t)) for t in rows(texts)]


def softmax(values):
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


class FakeBackbone:
    """Text features drawn per text."""

    name, digest, precision, logit_scale = "fake", "fake", "fp32", 20.0
    device, embed_dim = torch.device("cpu"), 16

    def tokenizer(self, texts):
        return torch.tensor([[zlib.crc32(text.encode())] for text in texts])

    def encode_prompts(self, names, templates, progress=None):
        total = torch.zeros(len(names), self.embed_dim)
        for template in templates:
            for row, name in enumerate(names):
                seed = zlib.crc32(template.replace("{}", name).encode())
                total[row] += unit(self.embed_dim, seed=seed)
        return F.normalize(total, dim=-1)


def FakeSource(names, images=None):
    return TextSpaceBuilder(FakeBackbone(), names, images)


ID_NAMES = ["cat", "sea lion", "Ship", "truck", "oak tree"]

# fmt: off
NOUNS = [
    "apple", "bread", "cat", "chair", "cloud", "desk", "door", "eagle", "fig", "fork", "goat",
    "hill", "ink", "jar", "kite", "lamp", "moon", "nest", "oar", "pan", "queen", "rope", "ship",
    "sun", "tent", "urn", "vase", "wall", "yak", "zoo",
]

ADJECTIVES = [
    "azure", "bright", "cold", "damp", "early", "flat", "green", "hot", "icy", "jolly", "keen",
    "lunar", "moon", "nice",
]

@pytest.fixture
def corpus_file(tmp_path):
    lines = ["word,part_of_speech,lexnames"]
    lines += [f"{w},noun,{'noun.person' if w == 'queen' else 'noun.artifact'}" for w in NOUNS]
    lines += [f"{w},adjective,{'adj.pert' if w == 'lunar' else 'adj.all'}" for w in ADJECTIVES]
    path = tmp_path / "words.csv"
    path.write_text("\n".join(lines))
    return str(path)

def quantile(values, q):
    """Linear interpolation between the sorted values."""
    values = sorted(values)
    place = q * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])

def least_similar(words, features, labels, share, veto=2.0):
    """NegLabel's selection with loops: the share with the smallest 0.95 quantile of cosines."""
    found = []
    for word, e in zip(words, rows(features), strict=True):
        similarity = cosine(e, labels)
        found.append((1.0 if max(similarity) > veto else quantile(similarity, 0.95), word))
    return [word for _, word in sorted(found)[: math.floor(len(words) * share)]]

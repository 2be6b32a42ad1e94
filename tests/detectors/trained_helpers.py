"""What the tests of methods with trained prompts, towers or captions share."""

import math

import pytest
import torch
import torch.nn.functional as F

from openood_interneg.detectors.registry import get_method
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace

NAMES = ("cat", "sea lion", "tabby_cat", "ship")

WIDTH = 64

SIZE, CLASSES, SCALE = 24, 5, 20.0


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(randn(*shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny


@pytest.fixture(scope="module")
def source(backbone):
    return TextSpaceBuilder(backbone, NAMES)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("\n".join(f"{a}{b}" for a in ("stone", "river", "lamp") for b in "abcdefg"))
    return str(path)


@pytest.fixture
def prompt_space():
    return TextSpace(
        labels=unit(CLASSES, SIZE, seed=1), logit_scale=SCALE, negatives=unit(15, SIZE, seed=2)
    )


def by_hand(backbone, context, name, stop="."):
    """A learned prompt through the model's own layers, position by position."""
    model, count = backbone.model, len(context)
    tokens = backbone.tokenizer([" ".join(["X"] * count) + f" {name}{stop}"])
    x = model.token_embedding(tokens).clone()
    x[0, 1 : 1 + count] = context
    x = x + model.positional_embedding
    x = model.transformer(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)[0, tokens.argmax()]
    return F.normalize(x @ model.text_projection, dim=-1)


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def make_space(source, tmp_path, name, content, **values):
    path = tmp_path / f"{name}.pth"
    torch.save(content, path)
    method = get_method(name)
    settings = method.make_settings({"checkpoint": str(path)} | values)
    prompt_space = source.space_for(method, settings)
    return prompt_space, method.make(settings).fit(prompt_space)


def softmax(values, tau=1.0):
    e = [math.exp(v / tau) for v in values]
    return [x / sum(e) for x in e]


def cosines(h, texts):
    return [float(h @ t) for t in texts.double().numpy()]


def blob(texts, seed, count=100):
    near = texts[torch.arange(count) % len(texts)]
    return F.normalize(near + 0.6 * unit(count, SIZE, seed=seed))


def run(detector, features, ids, batch):
    pairs = zip(features.split(batch), ids.split(batch), strict=True)
    return torch.cat([detector.step(f, k).score for f, k in pairs])

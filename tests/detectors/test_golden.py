"""The authors' implementation on small inputs: mining, inversion and the stream.

The vectors are read from the folder named by INTERNEG_GOLDEN, else from tests/golden.
"""

import json

import numpy as np
import pytest
import torch

from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.negatives.corpus import Corpus, deduplicate
from openood_interneg.negatives.inversion import invert
from openood_interneg.negatives.mining import inter_modal, mine, rank_chunks
from openood_interneg.negatives.proxies import base_cosine, image_proxies
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny


def close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=tolerance, rtol=0)


def test_mining(golden, backbone):
    words = json.loads((golden / "mining.json").read_text())
    arrays = np.load(golden / "mining.npz")
    expected = words["expected"]
    corpus = Corpus("golden", tuple(words["nouns"]), tuple(words["adjectives"]))
    corpus = deduplicate(corpus, words["id_classes"], ignore_case=False)
    assert set(corpus.nouns) == set(expected["candidates_noun"])
    assert set(corpus.adjectives) == set(expected["candidates_adjective"])

    features = torch.from_numpy(arrays["id_image_features"])
    classes, per_class, _ = features.shape
    labels = torch.arange(classes).repeat_interleave(per_class)
    proxies = image_proxies(features.flatten(0, 1), labels, classes)
    close(proxies, arrays["image_proxies"])
    label_features = backbone.encode_prompts(words["id_classes"], [words["noun_template"]])
    close(label_features, arrays["label_features"])
    base = base_cosine(label_features, proxies)
    close(base, arrays["base_cosine"])

    texts = {
        "noun": backbone.encode_prompts(corpus.nouns, [words["noun_template"]]),
        "adjective": backbone.encode_prompts(corpus.adjectives, [words["adjective_template"]]),
    }
    for kind, candidates in (("noun", corpus.nouns), ("adjective", corpus.adjectives)):
        order = [candidates.index(word) for word in expected[f"candidates_{kind}"]]
        close((texts[kind] @ proxies.t())[order], arrays[f"{kind}_cosine"])
    mined = mine(
        corpus.nouns,
        rank_chunks(texts["noun"].split(97), inter_modal(proxies, base)),  # chunks of any size
        corpus.adjectives,
        rank_chunks(texts["adjective"].split(97), inter_modal(proxies, base)),
        words["num_negatives"],
        proxies,
        base,
    )
    assert mined.passing == {
        "noun": expected["passing_noun"],
        "adjective": expected["passing_adjective"],
    }
    chosen = {kind: [] for kind in ("noun", "adjective")}
    for word, kind in zip(mined.words, mined.parts_of_speech, strict=True):
        chosen[kind].append(word)
    assert chosen["adjective"] == expected["selected_adjectives"]
    assert chosen["noun"] == expected["selected_nouns"]
    close(mined.features, arrays["negative_features"])
    assert bool((mined.margin < 0).all())


@pytest.mark.parametrize("name", ["inversion_fixed_template", "inversion_template_ensemble"])
def test_inversion(golden, backbone, name):
    arrays = np.load(golden / f"{name}.npz")
    prompts = backbone.pseudo_prompts([str(t) for t in arrays["templates"]], 1)
    tokens, embeddings, losses = invert(
        prompts,
        torch.from_numpy(arrays["image_features"]),
        torch.from_numpy(arrays["initial_tokens"])[:, None],
        torch.from_numpy(arrays["template_schedule"]),
        eps=1e-8 * len(arrays["image_features"]),  # their loss is the mean over the batch
    )
    close(tokens[:, 0], arrays["expected_tokens"])
    close(embeddings, arrays["expected_embedding"])
    close(losses.mean(dim=1).double(), arrays["expected_loss"])


@pytest.mark.parametrize("groups", [1, 4])
def test_stream(golden, backbone, groups):
    arrays = np.load(golden / f"stream_group{groups}.npz")
    features = torch.from_numpy(arrays["features"])
    texts = torch.from_numpy(arrays["text_features"])
    size, classes = int(arrays["batch_size"]), int(arrays["num_id"])
    prompts = backbone.pseudo_prompts([str(t) for t in arrays["inversion_templates"]], 1)
    batch = 0

    def inverter(gated, ids):
        initial = torch.from_numpy(arrays[f"expected_v0_{batch}"])
        schedule = torch.from_numpy(arrays[f"expected_templates_{batch}"])
        assert len(gated) == len(initial), "another number of gated images than the authors'"
        return invert(prompts, gated, initial[:, None], schedule, eps=1e-8 * len(gated))[1]

    detector = InterNeg(
        InterNegSettings(
            beta=float(arrays["beta"]), bank_capacity=int(arrays["bank_capacity"]), groups=groups
        ),
        inverter,
    )
    detector.fit(
        TextSpace(
            labels=texts[:classes],
            negatives=texts[classes:],
            logit_scale=float(arrays["logit_scale"]),
            proxies=torch.from_numpy(arrays["image_proxies"]),
            base=torch.from_numpy(arrays["base_cosine"]),
        )
    )
    for batch, part in enumerate(features.split(size)):
        pred, score = detector.step(part)
        close(score, arrays[f"expected_conf_{batch}"])
        assert pred.tolist() == arrays[f"expected_pred_{batch}"].tolist()
        assert detector.bank.offered == arrays["expected_bank_size"][batch]
    # The authors keep every admitted embedding and read the first K: the top K.
    kept = len(detector.bank)
    close(detector.bank.features, arrays["expected_bank"][:kept])
    mean = detector.bank.deviation / classes
    close(mean, arrays["expected_bank_deviation_mean"][:kept])

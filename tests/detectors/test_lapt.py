"""LAPT against slow versions written from the formulas, and its texts."""

from trained_helpers import WIDTH, by_hand, close, make_space, randn, unit

from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method


def test_lapt_space(backbone, source, tmp_path, words):
    ctx, ood = 0.1 * randn(2, WIDTH, seed=7), 0.1 * randn(2, WIDTH, seed=8)
    content = {"model.prompt_learner.ctx": ctx, "model.prompt_learner.ood_ctx": ood}
    values = {"corpus": words, "num_negatives": 9, "groups": 3}
    prompt_space, detector = make_space(source, tmp_path, "lapt", content, **values)
    assert prompt_space.negatives.shape == (9, 64)
    close(prompt_space.labels[0], by_hand(backbone, ctx, "cat"))
    close(prompt_space.negatives[4], by_hand(backbone, ood, prompt_space.negative_words[4]))
    plain = get_method("neglabel").make_settings(values)
    assert prompt_space.negative_words == source.build(plain).negative_words
    features = unit(7, 64, seed=9)
    expected = NegLabel(NegLabelSettings(groups=3)).fit(prompt_space).step(features)
    close(detector.step(features).score, expected.score)

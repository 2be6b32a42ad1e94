"""Methods without a learned memory, and CLIPScope, against loops in float64; their texts, too."""

import math
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.metrics import roc_auc_score

from openood_interneg.data.classnames import class_names
from openood_interneg.detectors import clipscope, csp, eoe, id_features, neglabel
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.clipscope import CLIPScope, CLIPScopeSettings, earlier_same
from openood_interneg.detectors.csp import CSP, CSPSettings
from openood_interneg.detectors.energy import Energy, EnergySettings
from openood_interneg.detectors.eoe import EOE, SHIPPED, EOESettings, outlier_labels, read_labels
from openood_interneg.detectors.knn import KNN, KNNSettings
from openood_interneg.detectors.mahalanobis import Mahalanobis, MahalanobisSettings
from openood_interneg.detectors.maxlogit import MaxLogit
from openood_interneg.detectors.mcm import MCM, MCMSettings
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.scoring import group_order
from openood_interneg.negatives.corpus import deduplicate, load_corpus
from openood_interneg.negatives.csp import SUPERCLASSES, conjugate
from openood_interneg.negatives.fraction import Pool, fraction_count, mine_fraction
from openood_interneg.negatives.mining import intra_modal
from openood_interneg.negatives.raw_average import encode_ensemble
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.prompts import prompt_set

SIZE, CLASSES, NEGATIVES, SCALE, PER_CLASS = 24, 6, 30, 20.0, 12
NAMES = [
    "energy", "maxlogit", "mahalanobis", "clip_knn", "neglabel", "csp", "eoe", "clipscope",
]  # fmt: skip
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "postprocessors"


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def around(centres, spread, seed):
    return F.normalize(centres + spread * unit(*centres.shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def space():
    labels = unit(CLASSES, SIZE, seed=1)
    own = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    return TextSpace(
        labels=labels,
        logit_scale=SCALE,
        negatives=unit(NEGATIVES, SIZE, seed=2),
        extra={"id_features": around(labels[own], 0.8, 3), "id_labels": own},
    )


@pytest.fixture(scope="module")
def stream(space):
    """ID images, OOD images, and images in between, shuffled: (48, D)."""
    id_images = around(space.labels[torch.arange(18) % CLASSES], 0.8, 4)
    ood_images = around(space.negatives[torch.arange(18)], 0.8, 5)
    between = F.normalize(space.labels[torch.arange(12) % 2] + space.negatives[:12], dim=-1)
    every = torch.cat([id_images, ood_images, between])
    return every[torch.randperm(48, generator=torch.Generator().manual_seed(6))]


def make(name, **values):
    """A detector with settings that fit the small space."""
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


# ---- slow versions, from the formulas --------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 0.01])
def test_energy(space, stream, tau):
    scores = Energy(EnergySettings(tau=tau)).fit(space).step(stream)
    expected = []
    for h in rows(stream):
        c = [v / tau for v in cosine(h, space.labels)]
        expected.append(tau * (max(c) + math.log(sum(math.exp(v - max(c)) for v in c))))
    same(scores.score, expected)


def test_maxlogit(space, stream):
    scores = MaxLogit().fit(space).step(stream)
    every = [cosine(h, space.labels) for h in rows(stream)]
    same(scores.score, [max(c) for c in every])
    assert scores.pred.tolist() == [int(np.argmax(c)) for c in every]


@pytest.mark.parametrize("name", ["neglabel", "csp"])
def test_grouped_score(space, stream, name):
    scores = make(name, groups=7).fit(space).step(stream)
    order = group_order(NEGATIVES, 7).tolist()
    assert len(order) == 28 and max(order) == 27  # the last two were cut off first
    expected = []
    for h in rows(stream):
        id_sum = sum(math.exp(SCALE * c) for c in cosine(h, space.labels))
        terms = [math.exp(SCALE * c) for c in cosine(h, space.negatives)]
        masses = []
        for g in range(7):
            group = sum(terms[j] for j in order[4 * g : 4 * g + 4])
            masses.append(id_sum / (id_sum + group))
        expected.append(sum(masses) / 7)
    same(scores.score, expected)


def test_eoe(space, stream):
    scores = EOE(EOESettings(beta=0.25, tau=0.1)).fit(space).step(stream)
    expected = []
    for h in rows(stream):
        joint = softmax([c / 0.1 for c in cosine(h, space.labels) + cosine(h, space.negatives)])
        expected.append(max(joint[:CLASSES]) - 0.25 * max(joint[CLASSES:]))
    same(scores.score, expected)


@pytest.mark.parametrize("update", ["sample", "batch"])
def test_clipscope(space, stream, update):
    detector = CLIPScope(CLIPScopeSettings(update=update)).fit(space)
    parts = [detector.step(chunk).score for chunk in stream.split(11)]
    counts, expected = [1] * CLASSES, []
    for chunk in stream.split(11):
        kept = list(counts)
        for h in rows(chunk):
            z = [SCALE * c for c in cosine(h, space.labels)]
            joint = softmax(z + [SCALE * c for c in cosine(h, space.negatives)])
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


def ledoit_wolf(x):
    """Ledoit and Wolf (2004), Section 3.2, with loops over the rows."""
    n, size = x.shape
    s = x.T @ x / n
    mu = np.trace(s) / size
    spread = ((s - mu * np.eye(size)) ** 2).sum()
    noise = sum(((np.outer(row, row) - s) ** 2).sum() for row in x) / n**2
    share = min(noise, spread) / spread
    return share * mu * np.eye(size) + (1 - share) * s


@pytest.mark.parametrize("covariance", ["empirical", "ledoit_wolf"])
@pytest.mark.parametrize("center", ["class", "global"])
def test_mahalanobis(space, stream, covariance, center):
    settings = MahalanobisSettings(covariance=covariance, center=center)
    scores = Mahalanobis(settings).fit(space).step(stream)
    x, own = rows(space.extra["id_features"]), space.extra["id_labels"].numpy()
    means = np.stack([x[own == c].mean(axis=0) for c in range(CLASSES)])
    residuals = x - (means[own] if center == "class" else x.mean(axis=0))
    sigma = residuals.T @ residuals / len(x)
    sigma = sigma if covariance == "empirical" else ledoit_wolf(residuals)
    inverse = np.linalg.inv(sigma)
    expected = [-min((h - m) @ inverse @ (h - m) for m in means) for h in rows(stream)]
    same(scores.score, expected, tolerance=1e-4)
    assert scores.pred.tolist() == (stream @ space.labels.t()).argmax(1).tolist()


def test_mahalanobis_with_fewer_images_than_dimensions(space, stream):
    few = space.extra["id_features"][::6], space.extra["id_labels"][::6]
    small = replace(space, extra={"id_features": few[0], "id_labels": few[1]})
    for covariance in ("empirical", "ledoit_wolf"):
        settings = MahalanobisSettings(covariance=covariance)
        assert bool(torch.isfinite(Mahalanobis(settings).fit(small).step(stream).score).all())


def test_knn(space, stream):
    scores = KNN(KNNSettings(k=4)).fit(space).step(stream)
    bank = rows(space.extra["id_features"])
    expected = [-sorted(float(np.linalg.norm(h - b)) for b in bank)[3] for h in rows(stream)]
    same(scores.score, expected)


# ---- invariants ------------------------------------------------------------------------------


def test_eoe_without_penalty_is_the_id_maximum_of_the_joint_softmax(space, stream):
    score = EOE(EOESettings(beta=0.0)).fit(space).step(stream).score
    joint = (stream @ torch.cat([space.labels, space.negatives]).t()).softmax(dim=1)
    torch.testing.assert_close(score, joint[:, :CLASSES].amax(dim=1))


def test_clipscope_with_frozen_counts_is_msp_times_id_mass_times_classes(space, stream):
    detector = CLIPScope(CLIPScopeSettings(update="batch")).fit(space)  # counts 1 in one batch
    msp = MCM(MCMSettings(tau=1 / SCALE)).fit(space).step(stream).score
    mass = NegLabel(NegLabelSettings()).fit(space).step(stream).score
    torch.testing.assert_close(detector.step(stream).score, msp * mass * CLASSES)


def test_energy_at_a_low_temperature_is_maxlogit(space, stream):
    low = Energy(EnergySettings(tau=1e-4)).fit(space).step(stream).score
    torch.testing.assert_close(low, MaxLogit().fit(space).step(stream).score, atol=1e-3, rtol=0)


def test_one_group_is_the_default_score(space, stream):
    names = [make(name, groups=1).fit(space).step(stream).score for name in ("neglabel", "csp")]
    torch.testing.assert_close(*names)


# ---- behaviour of every method ---------------------------------------------------------------


def auroc(detector, id_images, ood_images):
    every = torch.cat([id_images, ood_images])
    is_id = torch.arange(len(every)) < len(id_images)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(8))
    scores = torch.cat([detector.step(chunk).score for chunk in every[order].split(64)])
    return 100 * roc_auc_score(is_id[order], scores)


@pytest.mark.parametrize("name", NAMES)
def test_blobs(space, name):
    id_images = around(space.labels[torch.arange(300) % CLASSES], 1.0, 9)
    again = around(space.labels[torch.arange(300) % CLASSES], 1.0, 10)
    ood_images = around(space.negatives[torch.arange(300) % NEGATIVES], 1.0, 11)
    detector = make(name).fit(space)
    assert auroc(detector, id_images, ood_images) > 85
    detector.reset()
    assert abs(auroc(detector, id_images, again) - 50) < 8  # three deviations: 7


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_reset_and_continuing(space, stream, name):
    detector = make(name).fit(space)
    whole = detector.step(stream)
    for size in (1, 7):
        detector.reset()
        parts = [detector.step(chunk) for chunk in stream.split(size)]
        torch.testing.assert_close(torch.cat([p.score for p in parts]), whole.score)
        assert torch.equal(torch.cat([p.pred for p in parts]), whole.pred)
    detector.reset()
    detector.step(stream[:20])
    other = make(name).fit(space)
    other.load_state_dict(detector.state_dict())
    torch.testing.assert_close(other.step(stream[20:]).score, whole.score[20:])
    assert bool(detector.state_dict()) == bool(get_method(name).state)


def test_clipscope_per_batch_depends_on_the_cut(space, stream):
    detector = make("clipscope", update="batch").fit(space)
    whole = detector.step(stream).score
    detector.reset()
    parts = torch.cat([detector.step(chunk).score for chunk in stream.split(7)])
    assert float((whole - parts).abs().max()) > 0.1


def test_clipscope_depends_on_the_order_and_only_there(space, stream):
    for name in NAMES:
        detector = make(name).fit(space)
        forward = detector.step(stream).score
        detector.reset()
        backward = detector.step(stream.flip(0)).score.flip(0)
        assert torch.allclose(forward, backward) != get_method(name).order_dependent


@pytest.mark.parametrize("name", NAMES)
def test_no_image(space, name):
    scores = make(name).fit(space).step(torch.empty(0, SIZE))
    assert scores.pred.shape == scores.score.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_bad_features_leave_the_state_alone(space, stream, name):
    detector = make(name).fit(space)
    broken = stream.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(DetectorError, match="feature 3"):
        detector.step(broken)
    with pytest.raises(DetectorError, match="expected"):
        detector.step(stream[:, :-1])
    fresh = make(name).fit(space).step(stream).score
    torch.testing.assert_close(detector.step(stream).score, fresh)


def test_spaces_that_lack_something(space):
    bare = replace(space, negatives=space.labels[:0], extra={})
    for name in ("eoe", "clipscope", "mahalanobis", "clip_knn"):
        with pytest.raises(DetectorError, match="needs"):
            make(name).fit(bare)
    with pytest.raises(DetectorError, match="31 groups"):
        make("neglabel", groups=31).fit(space)
    with pytest.raises(DetectorError, match="k = 73"):
        make("clip_knn", k=73).fit(space)
    with pytest.raises(DetectorError, match="at least one of each"):
        id_features.id_images(replace(space, labels=unit(CLASSES + 1, SIZE)), "KNN")
    with pytest.raises(DetectorError, match="counts"):
        make("clipscope").fit(space).load_state_dict({"counts": torch.ones(2)})


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_yaml_holds_the_defaults(name):
    method = get_method(name)
    block = yaml.safe_load((CONFIGS / f"{name}.yml").read_text())["postprocessor"]
    assert set(block) == {"name", "APS_mode", "postprocessor_args", "postprocessor_sweep"}
    assert block["name"] == name and block["APS_mode"] is False
    defaults = as_mapping(method.make_settings())
    for setting, value in block["postprocessor_args"].items():
        assert value == defaults[setting] and type(value) is type(defaults[setting]), setting
    for sweep, values in block["postprocessor_sweep"].items():
        for value in values:
            method.make_settings({sweep.removesuffix("_list"): value})


@pytest.mark.parametrize("name", NAMES)
def test_presets(name):
    method = get_method(name)
    assert {"imagenet", "cifar10", "cifar100"} <= set(method.presets)
    for values in method.presets.values():
        method.make_settings(values)


def test_neglabel_presets_and_its_defaults():
    presets = get_method("neglabel").presets
    paper = NegLabelSettings(**presets["neglabel_paper"])
    assert (paper.fraction, paper.groups, paper.intra_quantile_rule) == (0.15, 100, "linear")
    ported = NegLabelSettings(**presets["openood_vlm"])
    assert (ported.num_negatives, ported.label_prompt) == (10_000, "nice")
    default = NegLabelSettings()
    assert (default.num_negatives, default.groups, default.fraction) == (2000, 1, 0.0)


def test_settings_at_odds():
    with pytest.raises(SettingsError, match="intra"):
        NegLabelSettings(fraction=0.2, negatives="inter")
    with pytest.raises(SettingsError, match="keep_class_names"):
        NegLabelSettings(keep_class_names=True)
    with pytest.raises(SettingsError, match=r"'clipscope' has no setting 'negatives'.*neglabel"):
        get_method("clipscope").make_settings({"negatives": "inter"})
    with pytest.raises(SettingsError, match="fraction"):
        CSPSettings(fraction=0.0)


# ---- counts of the corpora -------------------------------------------------------------------


def test_counts_of_wordnet_31(realbench):
    corpus = load_corpus(realbench / "corpus" / "wordnet31.csv")
    nouns, adjectives = set(corpus.nouns), set(corpus.adjectives)
    assert (len(nouns), len(adjectives)) == (58_546, 13_091)
    assert (len(nouns & adjectives), len(nouns | adjectives)) == (1_637, 70_000)
    names = {benchmark: class_names(benchmark) for benchmark in ("cifar10", "imagenet")}
    # The authors' lists keep underscores in names of CIFAR-100, which then match no word.
    names["cifar100"] = [name.replace(" ", "_") for name in class_names("cifar100")]
    left = {
        benchmark: deduplicate(corpus, own, ignore_case=False) for benchmark, own in names.items()
    }
    assert {benchmark: len(words) for benchmark, words in left.items()} == {
        "cifar10": 69_993,
        "cifar100": 69_929,
        "imagenet": 69_554,
    }
    assert (len(left["imagenet"].nouns), len(left["imagenet"].adjectives)) == (58_101, 11_453)
    kept = deduplicate(corpus, ())  # NegLabel leaves class names in
    assert sum(fraction_count(len(x), 0.15) for x in (kept.nouns, kept.adjectives)) == 10_499


def test_counts_of_the_packaged_wordnet_30():
    """CSP's pool; of 3.1, its code has 47,327 nouns and 10,060 adjectives, 767 in both."""
    corpus, phrases = csp.word_pool(FakeSource(["cat"]), CSPSettings())
    whole = load_corpus("wordnet").excluding(csp.EXCLUDED)
    both = set(whole.nouns) & set(whole.adjectives)
    assert (len(whole.nouns), len(whole.adjectives), len(both)) == (47_287, 11_047, 841)
    assert (len(corpus.nouns), len(corpus.adjectives)) == (47_287, 11_047 - 841)
    assert set(corpus.adjectives) < set(phrases)


# ---- texts -----------------------------------------------------------------------------------


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


class FakeImages:
    def __init__(self, classes, per_class):
        self.labels = np.arange(classes * per_class) % classes
        self.rows = unit(classes * per_class, FakeBackbone.embed_dim, seed=12)

    def features(self, indices):
        return self.rows[torch.as_tensor(indices)]


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
# fmt: on


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


def test_neglabels_own_selection(corpus_file):
    source = FakeSource(ID_NAMES)
    settings = NegLabelSettings(
        corpus=corpus_file, intra_quantile_rule="linear", fraction=0.3, keep_class_names=True
    )
    found = source.space_for(get_method("neglabel"), settings)
    labels = source.labels("nice")
    adjectives = [w for w in ADJECTIVES if w != "moon"]  # a noun, too
    expected = []
    for words, prompt in ((NOUNS, "nice"), (adjectives, "adjective")):
        features = source.backbone.encode_prompts(words, prompt_set(prompt))
        expected += least_similar(words, features, labels, 0.3)
    assert list(found.negative_words) == expected
    assert len(expected) == 9 + 3
    assert torch.equal(found.labels, labels)
    removed = source.space_for(
        get_method("neglabel"), replace(settings, fraction=1.0, keep_class_names=False)
    )
    assert set(NOUNS) - set(removed.negative_words) == {"cat", "ship"}


def test_neglabel_without_a_fraction_has_the_common_space(corpus_file):
    source = FakeSource(ID_NAMES)
    settings = NegLabelSettings(corpus=corpus_file, num_negatives=11)
    assert neglabel.space(source, settings) is source.build(settings)


def test_a_fraction_of_less_than_a_word():
    pool = Pool(["a", "b"], [unit(2, 16)])
    with pytest.raises(SettingsError, match="less than one word"):
        mine_fraction([pool], intra_modal(unit(3, 16, seed=1)), 0.4)


def test_conjugation_is_reproducible():
    phrases = conjugate(ADJECTIVES, seed=3)
    assert phrases == conjugate(ADJECTIVES[::-1], seed=3) != conjugate(ADJECTIVES, seed=4)
    assert all(p.removeprefix(f"{w} ") in SUPERCLASSES for w, p in phrases.items())
    drawn = Counter(p.split()[-1] for p in conjugate([f"w{i}" for i in range(2800)]).values())
    assert set(drawn) == set(SUPERCLASSES) and min(drawn.values()) > 140  # 200 expected


def raw_mean(backbone, names, templates):
    """The model's own forward over all 77 positions, not normalised, averaged."""
    total = 0
    for template in templates:
        tokens = backbone.tokenizer([template.replace("{}", name) for name in names])
        with torch.no_grad():
            total = total + backbone.model.encode_text(tokens).double()
    return F.normalize(total, dim=-1)


def test_average_of_unnormalised_features(tiny):
    templates = prompt_set("csp")
    expected = raw_mean(tiny, ID_NAMES, templates)
    same(encode_ensemble(tiny, ID_NAMES, templates), expected)
    normalised_first = tiny.encode_prompts(ID_NAMES, templates)
    assert float((normalised_first - expected).abs().max()) > 1e-5  # they are not the same
    same(
        encode_ensemble(tiny, ID_NAMES, templates[:1]), tiny.encode_prompts(ID_NAMES, templates[:1])
    )
    assert encode_ensemble(tiny, [], templates).shape == (0, tiny.embed_dim)


@pytest.mark.parametrize("averaging", ["raw", "unit"])
def test_csp_texts(tiny, corpus_file, averaging):
    source = TextSpaceBuilder(tiny, ID_NAMES)
    settings = CSPSettings(corpus=corpus_file, fraction=0.5, averaging=averaging)
    found = source.space_for(get_method("csp"), settings)

    def encode(names, prompt):
        if averaging == "unit":
            return tiny.encode_prompts(names, prompt_set(prompt))
        return raw_mean(tiny, names, prompt_set(prompt))

    labels = encode(ID_NAMES, "csp")
    same(found.labels, labels)
    nouns = [w for w in NOUNS if w != "queen"]
    phrases = conjugate([w for w in ADJECTIVES if w != "lunar"])
    phrases = [phrase for word, phrase in phrases.items() if word != "moon"]
    expected = []
    for texts, prompt in ((nouns, "csp"), (phrases, "csp_adjective")):
        features = encode(texts, prompt)
        chosen = least_similar(texts, features, labels, 0.5, veto=0.95)
        same(
            found.negatives[len(expected) : len(expected) + len(chosen)],
            torch.stack([features[texts.index(text)] for text in chosen]),
        )
        expected += chosen
    assert list(found.negative_words) == expected


def test_csps_veto_ranks_class_names_last(tiny, corpus_file):
    # All nouns but one: the one left out must be a class name, though its quantile is not largest.
    options = {"corpus": corpus_file, "fraction": 28.5 / 30, "label_prompt": "csp"}
    source = TextSpaceBuilder(tiny, ["cat", "ship", *ADJECTIVES[:9]])
    settings = CSPSettings(**options, excluded="none", veto=0.9999)
    kept = source.space_for(get_method("csp"), settings).negative_words
    assert {"cat", "ship"}.isdisjoint(kept)


def test_csp_with_neglabels_texts_is_neglabel(tiny, corpus_file):
    source = TextSpaceBuilder(tiny, ID_NAMES)
    paper = get_method("neglabel").presets["neglabel_paper"]
    common = {**paper, "corpus": corpus_file, "fraction": 0.4, "groups": 3}
    ours = CSPSettings(**common, excluded="none", superclasses="none", veto=1.0)
    theirs = NegLabelSettings(**common)
    spaces = [
        source.space_for(get_method(name), settings)
        for name, settings in (("csp", ours), ("neglabel", theirs))
    ]
    assert spaces[0].negative_words == spaces[1].negative_words
    features = unit(20, tiny.embed_dim, seed=13)
    torch.testing.assert_close(
        CSP(ours).fit(spaces[0]).step(features).score,
        NegLabel(theirs).fit(spaces[1]).step(features).score,
    )


def test_csp_says_so_where_the_corpus_has_no_files(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(NOUNS))
    with pytest.warns(UserWarning, match="lexicographer"):
        corpus, _ = csp.word_pool(FakeSource(ID_NAMES), CSPSettings(corpus=str(path)))
    assert corpus.nouns == tuple(NOUNS)


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


# ---- EOE's labels ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_lists(name):
    labels = read_labels(name)
    benchmark, kind = name.split("_")
    names = class_names(benchmark)
    most = 3 * len(names) if kind == "near" else 500
    assert 0.9 * most <= len(labels) <= most
    assert list(outlier_labels(labels, names)) == labels  # distinct, lower-case, no class name


def test_shipped_lists_differ_by_kind():
    near, far = set(read_labels("cifar10_near")), set(read_labels("cifar10_far"))
    assert "fox" in near and "fox" not in far


def test_outlier_labels():
    labels = ["Sea Lion", "sea_lion", "red  ship", "walrus", "Walrus", "lion", "tree frog"]
    assert outlier_labels(labels, ID_NAMES) == ("red ship", "walrus", "lion", "tree frog")
    assert outlier_labels(labels, ID_NAMES, drop_shared_tokens=True) == ("walrus",)


def test_eoe_space_from_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("# mine\nWalrus\nCAT\n\nlamp post\n")
    source = FakeSource(ID_NAMES)
    found = source.space_for(get_method("eoe"), EOESettings(labels=str(path)))
    assert found.negative_words == ("walrus", "lamp post")
    expected = source.backbone.encode_prompts(["walrus", "lamp post"], ["a photo of a {}"])
    torch.testing.assert_close(found.negatives, expected)


def test_label_files_that_cannot_be_used(tmp_path):
    source = FakeSource(ID_NAMES)
    with pytest.raises(SettingsError, match="imagenet_far"):
        eoe.space(source, EOESettings(labels="imagenet_fra"))
    with pytest.raises(SettingsError, match="folder"):
        read_labels(str(tmp_path))
    for text, message in (("# none\n\n", "no outlier labels"), ("Cat\nSHIP\n", "class names only")):
        path = tmp_path / "labels.txt"
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            eoe.space(source, EOESettings(labels=str(path)))


# ---- ID images -------------------------------------------------------------------------------


def test_id_image_space():
    images = FakeImages(len(ID_NAMES), 6)
    source = FakeSource(ID_NAMES, images)
    for name in ("mahalanobis", "clip_knn"):
        method = get_method(name)
        settings = method.make_settings({"images_per_class": 4, "proxy_select": "first"})
        found = source.space_for(method, settings)
        own = found.extra["id_labels"]
        assert torch.bincount(own).tolist() == [4] * len(ID_NAMES)
        first = [images.rows[np.flatnonzero(images.labels == c)[:4]] for c in range(len(ID_NAMES))]
        assert torch.equal(found.extra["id_features"], torch.cat(first))
        assert found.to("cpu").extra["id_labels"].dtype == torch.int64
        scores = method.make(settings).fit(found).step(images.rows[:3]).score
        assert bool(torch.isfinite(scores).all())


def test_id_images_are_asked_for():
    with pytest.raises(SettingsError, match="ID training images"):
        id_features.space(FakeSource(ID_NAMES), KNNSettings())

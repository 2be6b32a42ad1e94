"""Methods with trained prompts, towers or captions: layouts, scores, plug points.

No published checkpoint is here. Files are written in the layouts that
`openood_interneg.vlm.trained_prompts` documents, for the tiny CLIP.
"""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from openood_interneg.data.image_ids import image_id, image_ids
from openood_interneg.detectors.ants import ANTS, ANTSSettings, far_threshold
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.caption_files import (
    caption_tensors,
    collect_captions,
    read_captions,
)
from openood_interneg.detectors.clipn import CLIPN, CLIPNSettings
from openood_interneg.detectors.id_like import IDLike
from openood_interneg.detectors.local_prompt import LocalPrompt, LocalPromptSettings
from openood_interneg.detectors.locoop import LoCoOp, LoCoOpSettings
from openood_interneg.detectors.lsn import LSN, LSNSettings
from openood_interneg.detectors.mcm import MCM
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.negprompt import NegPrompt, NegPromptSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.scoring import group_order
from openood_interneg.detectors.supreme import Supreme, SupremeSettings
from openood_interneg.detectors.zoc import ZOC
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.patches import PatchError, encode_with_patches
from openood_interneg.vlm.trained_prompts import (
    TrainedPromptError,
    learned_prompts,
    no_features,
    pick,
    read_checkpoint,
)

NAMES = ("cat", "sea lion", "tabby_cat", "ship")
METHODS = ("locoop", "lapt", "negprompt", "local_prompt", "supreme", "lsn", "id_like", "clipn")
METHODS += ("zoc", "ants")
WIDTH = 64
SIZE, CLASSES, SCALE = 24, 5, 20.0


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(randn(*shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def backbone(golden):
    return load_backbone(golden / "tiny_clip.safetensors")


@pytest.fixture(scope="module")
def source(backbone):
    return TextSpaceBuilder(backbone, NAMES)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("\n".join(f"{a}{b}" for a in ("stone", "river", "lamp") for b in "abcdefg"))
    return str(path)


@pytest.fixture
def space():
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


# ---- learned prompts -----------------------------------------------------------------------


@pytest.mark.parametrize("stop", [".", ""])
@pytest.mark.parametrize("own", [False, True])
def test_learned_prompts_by_hand(backbone, own, stop):
    context = 0.1 * randn(*((len(NAMES), 3, WIDTH) if own else (3, WIDTH)), seed=3)
    features = learned_prompts(backbone, context, NAMES, stop=stop)
    for i, name in enumerate(NAMES):
        expected = by_hand(backbone, context[i] if own else context, name.replace("_", " "), stop)
        close(features[i], expected)


def test_prompts_of_words_are_plain_prompts(backbone):
    """Context vectors that are the embeddings of words give those words' features."""
    tokens = backbone.tokenizer(["a photo of a"])
    context = backbone.model.token_embedding(tokens)[0, 1:5]
    features = learned_prompts(backbone, context, NAMES)
    names = [name.replace("_", " ") for name in NAMES]
    close(features, backbone.encode_prompts(names, ["a photo of a {}."]))
    front = learned_prompts(backbone, context, ["cat"], position="front")
    close(front, backbone.encode_text(["cat a photo of a."]))
    alone = learned_prompts(backbone, context, ["", ""])
    close(alone[:1], backbone.encode_text(["a photo of a."]))


def test_learned_prompts_refuse(backbone):
    with pytest.raises(TrainedPromptError, match="another backbone"):
        learned_prompts(backbone, randn(3, WIDTH + 1), NAMES)
    with pytest.raises(TrainedPromptError, match="4 class names"):
        learned_prompts(backbone, randn(7, 3, WIDTH), NAMES)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_read_checkpoint(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    ctx = randn(2, 3)
    if suffix == ".pth":
        torch.save({"state_dict": {"prompt_learner.ctx": ctx.half()}, "epoch": 50}, path)
    else:
        save_file({"state_dict.prompt_learner.ctx": ctx.half()}, path)
    tensors = read_checkpoint(path)
    assert list(tensors) == ["state_dict.prompt_learner.ctx"]
    assert pick(tensors, "ctx").dtype == torch.float32
    assert pick(tensors, "tx", optional=True) is None
    with pytest.raises(TrainedPromptError, match=r"no 'ood_ctx'.*prompt_learner"):
        pick(tensors, "ood_ctx")
    with pytest.raises(TrainedPromptError, match="several"):
        pick({"a.ctx": ctx, "b.ctx": ctx}, "ctx")


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_checkpoints_run_no_code(tmp_path, capsys):
    path = tmp_path / "model.pth.tar-50"
    torch.save({"state_dict": {"ctx": randn(2, 3)}, "scheduler": Harmful()}, path)
    with pytest.raises(TrainedPromptError, match="plain tensors"):
        read_checkpoint(path)
    assert "never" not in capsys.readouterr().out
    with pytest.raises(TrainedPromptError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pth")
    torch.save([1, 2], path)
    with pytest.raises(TrainedPromptError, match="no tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    ["locoop", "lapt", "negprompt", "local_prompt", "supreme", "lsn", "id_like", "clipn"],
)
def test_missing_checkpoint_is_named(source, name, words):
    method = get_method(name)
    settings = method.make_settings({"corpus": words} if "corpus" in method.setting_names else {})
    with pytest.raises(SettingsError, match="checkpoint"):
        source.space_for(method, settings)


# ---- the spaces of each method -------------------------------------------------------------


def make_space(source, tmp_path, name, content, **values):
    path = tmp_path / f"{name}.pth"
    torch.save(content, path)
    method = get_method(name)
    settings = method.make_settings({"checkpoint": str(path)} | values)
    space = source.space_for(method, settings)
    return space, method.make(settings).fit(space)


def test_locoop_space(backbone, source, tmp_path):
    ctx = 0.1 * randn(4, WIDTH, seed=4)
    junk = {"token_prefix": randn(9, 1, WIDTH), "token_suffix": randn(9, 72, WIDTH)}
    space, detector = make_space(source, tmp_path, "locoop", {"state_dict": {"ctx": ctx, **junk}})
    close(space.labels[3], by_hand(backbone, ctx, "ship"))
    views = torch.cat([unit(1, 6, 64, seed=5), unit(16, 6, 64, seed=6)])
    assert detector.step(views).score.shape == (6,)
    with pytest.raises(DetectorError, match="patches"):
        detector.step(unit(6, 64))


def test_lapt_space(backbone, source, tmp_path, words):
    ctx, ood = 0.1 * randn(2, WIDTH, seed=7), 0.1 * randn(2, WIDTH, seed=8)
    content = {"model.prompt_learner.ctx": ctx, "model.prompt_learner.ood_ctx": ood}
    values = {"corpus": words, "num_negatives": 9, "groups": 3}
    space, detector = make_space(source, tmp_path, "lapt", content, **values)
    assert space.negatives.shape == (9, 64)
    close(space.labels[0], by_hand(backbone, ctx, "cat"))
    close(space.negatives[4], by_hand(backbone, ood, space.negative_words[4]))
    plain = get_method("neglabel").make_settings(values)
    assert space.negative_words == source.build(plain).negative_words
    features = unit(7, 64, seed=9)
    expected = NegLabel(NegLabelSettings(groups=3)).fit(space).step(features)
    close(detector.step(features).score, expected.score)


@pytest.mark.parametrize("own", [False, True])
def test_negprompt_space(backbone, source, tmp_path, own):
    lead = (len(NAMES),) if own else ()
    positive, negative = 0.1 * randn(*lead, 1, 3, WIDTH), 0.1 * randn(*lead, 2, 3, WIDTH, seed=1)
    content = {
        "prompt_learner.ctx_positive": positive,
        "prompt_learner.ctx_negative": negative,
        "logit_scale": torch.tensor(1.0),
    }
    space, _ = make_space(source, tmp_path, "negprompt", content)
    assert space.negatives.shape == (2 * len(NAMES), 64)
    own_positive = positive[1, 0] if own else positive[0]
    own_negative = negative[1, 1] if own else negative[1]
    close(space.labels[1], by_hand(backbone, own_positive, "sea lion", ""))
    close(space.negatives[len(NAMES) + 1], by_hand(backbone, own_negative, "sea lion", ""))


def test_local_prompt_space(backbone, source, tmp_path):
    local, neg = 0.1 * randn(len(NAMES), 3, WIDTH), 0.1 * randn(6, 3, WIDTH, seed=1)
    content = {"state_dict": {"local_ctx": local, "neg_ctx": neg}}
    space, detector = make_space(source, tmp_path, "local_prompt", content)
    close(space.labels, backbone.encode_prompts(NAMES, ["a photo of a {}."]))
    close(space.extra["local"][3], by_hand(backbone, local[3], "ship"))
    close(space.negatives[5], by_hand(backbone, neg[5], ""))
    assert detector.step(unit(5, 2, 64)).score.shape == (2,)


def test_lsn_space(backbone, source, tmp_path):
    content = {"yes": {"ctx": 0.1 * randn(3, WIDTH)}}
    content |= {f"no{k}": {"ctx": 0.1 * randn(len(NAMES), 2, WIDTH, seed=k)} for k in (1, 2, 3)}
    space, detector = make_space(source, tmp_path, "lsn", content)
    assert space.extra["no"].shape == (3, len(NAMES), 64)
    close(space.extra["no"][1, 3], by_hand(backbone, content["no2"]["ctx"][3], "ship"))
    assert detector.step(unit(5, 64)).score.shape == (5,)
    with pytest.raises(TrainedPromptError, match=r"no1\.ctx"):
        make_space(source, tmp_path, "lsn", {"yes": {"ctx": randn(3, WIDTH)}}, tau=0.5)


@pytest.mark.parametrize("learned_class", [False, True])
def test_id_like_space(backbone, source, tmp_path, learned_class):
    ctx, ex = 0.1 * randn(2, WIDTH), 0.1 * randn(3, 2, WIDTH, seed=1)
    content = {
        "prompt_learner_state_dict": {"ctx": ctx},
        "ex_prompt_learner_state_dict": {"ctx": ex},
    }
    prompt = ex[1]
    if learned_class:
        cls = 0.1 * randn(3, 1, WIDTH, seed=2)
        content["ex_prompt_learner_state_dict"]["cls"] = cls
        prompt = torch.cat([prompt, cls[1]])
    space, detector = make_space(source, tmp_path, "id_like", content, groups=1)
    assert space.negatives.shape == (3, 64)
    close(space.labels[0], by_hand(backbone, ctx, "cat"))
    close(space.negatives[1], by_hand(backbone, prompt, ""))
    assert detector.step(unit(5, 64)).score.shape == (5,)


def test_supreme_space(source, tmp_path):
    content = {"text_prototypes": randn(4, 64), "image_prototypes": randn(4, 64, seed=1)}
    space, detector = make_space(source, tmp_path, "supreme", content)
    close(space.labels, F.normalize(content["text_prototypes"], dim=-1))
    assert detector.step(unit(5, 64)).score.shape == (5,)
    content["image_prototypes"] = randn(3, 64)
    with pytest.raises(SettingsError, match="image_prototypes"):
        make_space(source, tmp_path, "supreme", content, tau=0.5)


def no_tower(backbone, seed=None):
    """The backbone's own text tower under CLIPN's names; with a seed, moved a little."""
    parts = ("token_embedding.", "transformer.", "ln_final.")
    out = {}
    for name, value in backbone.model.state_dict().items():
        whole = name in ("positional_embedding", "text_projection")
        if whole or name.startswith(parts):
            head, dot, rest = name.partition(".")
            value = value.clone()
            if seed is not None and value.is_floating_point():
                value += 0.05 * randn(*value.shape, seed=seed)
            out[f"module.{head}_no{dot}{rest}"] = value
    return out


def test_clipn_tower(backbone, source, tmp_path):
    templates = ("a photo of a {}.", "the {}")
    same = no_features(backbone, no_tower(backbone), NAMES, templates)
    close(same, backbone.encode_prompts(NAMES, templates))
    # prompt_no is added at every position: by hand, through the model's own layers.
    shift = 0.1 * randn(3, 77, WIDTH)
    moved = no_features(backbone, no_tower(backbone) | {"prompt_no": shift}, ["cat"], ["the {}"])
    model, tokens = backbone.model, backbone.tokenizer(["the cat"])
    x = model.token_embedding(tokens) + model.positional_embedding + shift.mean(0)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))[0, tokens.argmax()]
    close(moved[0], F.normalize(x @ model.text_projection, dim=-1))

    content = {"epoch": 10, "state_dict": no_tower(backbone, seed=3)}
    values = {"label_prompt": "simple"}
    space, detector = make_space(source, tmp_path, "clipn", content, **values)
    assert (space.extra["no"] - space.labels).abs().max() > 1e-2
    score = detector.step(unit(5, 64)).score
    assert bool(((score > 0) & (score < 1)).all())
    del content["state_dict"]["module.ln_final_no.bias"]
    with pytest.raises(TrainedPromptError, match="ln_final_no"):
        make_space(source, tmp_path, "clipn", content, tau=0.5, **values)


def test_clipn_takes_the_authors_prompt_file(backbone, source, tmp_path):
    (tmp_path / "prompt.txt").write_text('"a photo of a {}."\n"a blurry photo of a {}."\n')
    tensors = no_tower(backbone, seed=3)
    file = str(tmp_path / "prompt.txt")
    space, _ = make_space(source, tmp_path, "clipn", tensors, label_prompt=file)
    written = ('"a photo of a {}."', '"a blurry photo of a {}."')
    names = source.class_names
    close(space.labels, backbone.encode_prompts(names, written))
    close(space.extra["no"], no_features(backbone, tensors, names, written))


# ---- patches -------------------------------------------------------------------------------


def patches_by_hand(model, images):
    """The image tower written out, one layer and head at a time, in float64."""
    visual = model.double().visual
    x = visual.conv1(images.double()).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([cls, x], 1) + visual.positional_embedding)
    blocks = list(visual.transformer.resblocks)
    for number, block in enumerate(blocks):
        attn, y = block.attn, block.ln_1(x)
        q, k, v = (y @ attn.in_proj_weight.t() + attn.in_proj_bias).chunk(3, dim=-1)
        if number + 1 == len(blocks):
            mixed = v
        else:
            heads = []
            for part in zip(*(t.chunk(attn.num_heads, -1) for t in (q, k, v)), strict=True):
                weight = part[0] @ part[1].transpose(1, 2) / math.sqrt(part[0].shape[-1])
                heads.append(weight.softmax(-1) @ part[2])
            mixed = torch.cat(heads, -1)
        x = x + attn.out_proj(mixed)
        x = x + block.mlp(block.ln_2(x))
    return F.normalize((visual.ln_post(x) @ visual.proj)[:, 1:], dim=-1).transpose(0, 1)


def test_patch_features(golden):
    backbone = load_backbone(golden / "tiny_clip.safetensors")
    images = randn(3, 3, 32, 32)
    views = encode_with_patches(backbone, images)
    assert views.shape == (1 + 16, 3, 64)
    assert torch.equal(views[0], backbone.encode_image(images))
    close(views.norm(dim=-1), torch.ones(17, 3))
    assert not backbone.model.visual.transformer.resblocks[-1]._forward_hooks
    expected = patches_by_hand(backbone.model, images)
    close(views[1:].double(), expected)


def test_patch_features_refuse():
    class Other:
        name, model = "RN50", torch.nn.Module()

    Other.model.visual = torch.nn.Module()
    with pytest.raises(PatchError, match="RN50"):
        encode_with_patches(Other, randn(1, 3, 32, 32))


# ---- scores by loops -----------------------------------------------------------------------


def softmax(values, tau=1.0):
    e = [math.exp(v / tau) for v in values]
    return [x / sum(e) for x in e]


def cosines(h, texts):
    return [float(h @ t) for t in texts.double().numpy()]


def test_glmcm_by_loops(space):
    views = unit(4, 6, SIZE, seed=5)
    score = LoCoOp(LoCoOpSettings(tau=0.2)).fit(space).step(views).score
    for b in range(6):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        expected = max(softmax(cosines(whole, space.labels), 0.2))
        expected += max(max(softmax(cosines(p, space.labels), 0.2)) for p in patches)
        assert score[b].item() == pytest.approx(expected, abs=1e-6)


def test_locoop_without_patches_is_mcm(space):
    features = unit(6, SIZE, seed=5)
    ours = LoCoOp(LoCoOpSettings(score="mcm")).fit(space)
    expected = MCM().fit(space).step(features)
    close(ours.step(features).score, expected.score)
    close(ours.step(torch.stack([features, features.flip(0)])).score, expected.score)


@pytest.mark.parametrize("top", [1, 4, 1000])
def test_local_prompt_by_loops(space, top):
    space = replace(space, extra={"local": unit(CLASSES, SIZE, seed=6)})
    views = unit(4, 6, SIZE, seed=5)
    settings = LocalPromptSettings(tau=0.3, top=top)
    pred, score = LocalPrompt(settings).fit(space).step(views)
    texts = torch.cat([space.extra["local"], space.negatives])
    for b in range(6):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        own = softmax(cosines(whole, space.labels), 0.3)
        masses = [m for p in patches for m in softmax(cosines(p, texts), 0.3)[:CLASSES]]
        best = sorted(masses)[-top:]
        assert score[b].item() == pytest.approx(max(own) + sum(best) / len(best), abs=1e-6)
    assert pred.shape == (6,)


@pytest.mark.parametrize("top", [1, 3, 1000])
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_local_prompt_predicts_by_global_and_local_prompts(space, top, tau):
    local = unit(CLASSES, SIZE, seed=6)
    views = unit(6, 40, SIZE, seed=5)
    settings = LocalPromptSettings(tau=tau, top=top)
    detector = LocalPrompt(settings).fit(replace(space, extra={"local": local}))
    pred = detector.step(views).pred
    expected = []
    for b in range(40):
        whole, *patches = (h.double().numpy() for h in views[:, b])
        product = []
        for i in range(CLASSES):
            near = sorted(math.exp(cosines(p, local)[i] / tau) for p in patches)[-top:]
            product.append(math.exp(cosines(whole, space.labels)[i]) * sum(near) / len(near))
        expected.append(int(np.argmax(product)))
    assert pred.tolist() == expected
    alone = (views[0] @ space.labels.t()).argmax(dim=1)
    assert (alone != torch.tensor(expected)).any()  # the local prompts do decide


def test_negprompt_by_loops(space):
    features = unit(6, SIZE, seed=5)
    score = NegPrompt(NegPromptSettings(tau=0.4)).fit(space).step(features).score
    texts = torch.cat([space.labels, space.negatives])
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        assert s == pytest.approx(max(softmax(cosines(h, texts), 0.4)[:CLASSES]), abs=1e-6)


def test_lsn_by_loops(space):
    no = unit(3, CLASSES, SIZE, seed=7)
    features = unit(6, SIZE, seed=5)
    settings = LSNSettings(tau=0.5, negative_tau=0.7)
    score = LSN(settings).fit(replace(space, extra={"no": no})).step(features).score
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        expected = max(softmax(cosines(h, space.labels), 0.5))
        for texts in no:
            expected += max(softmax([1 - c for c in cosines(h, texts)], 0.7)) / 3
        assert s == pytest.approx(expected, abs=1e-6)


def test_id_like_is_the_plain_mass(space):
    features = unit(6, SIZE, seed=5)
    score = IDLike().fit(space).step(features).score
    texts = torch.cat([space.labels, space.negatives])
    for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
        p = softmax([SCALE * c for c in cosines(h, texts)])
        assert s == pytest.approx(sum(p[:CLASSES]), abs=1e-5)


def test_supreme_by_loops(space):
    image, mapping = unit(CLASSES, SIZE, seed=8), randn(SIZE, SIZE, seed=9)
    space = replace(space, extra={"image": image, "map": mapping})
    features = unit(6, SIZE, seed=5)
    for combine, join in (("max", max), ("mean", lambda v: sum(v) / len(v))):
        settings = SupremeSettings(tau=0.3, combine=combine)
        score = Supreme(settings).fit(space).step(features).score
        for h, s in zip(features.double().numpy(), score.tolist(), strict=True):
            mapped = mapping.double().numpy() @ h
            queries = (h, mapped / np.linalg.norm(mapped))
            every = [
                max(softmax(cosines(q, p), 0.3)) for q in queries for p in (space.labels, image)
            ]
            assert s == pytest.approx(join(every), abs=1e-6)


@pytest.mark.parametrize("rule", ["ctw", "atd"])
def test_clipn_by_loops(space, rule):
    no = unit(CLASSES, SIZE, seed=7)
    features = unit(6, SIZE, seed=5)
    detector = CLIPN(CLIPNSettings(score=rule)).fit(replace(space, extra={"no": no}))
    for h, s in zip(features.double().numpy(), detector.step(features).score.tolist(), strict=True):
        yes = [SCALE * c for c in cosines(h, space.labels)]
        nos = [SCALE * c for c in cosines(h, no)]
        q = [1 / (1 + math.exp(n - y)) for y, n in zip(yes, nos, strict=True)]
        if rule == "ctw":
            expected = q[int(np.argmax(yes))]
        else:
            expected = sum(p * x for p, x in zip(softmax(yes), q, strict=True))
        assert s == pytest.approx(expected, abs=1e-5)


def everything(space):
    """A space with all that any of these methods asks for."""
    extra = {
        "local": space.labels,
        "image": F.normalize(space.labels + 0.1 * unit(CLASSES, SIZE, seed=20)),
        "no": F.normalize(0.3 * space.labels + unit(CLASSES, SIZE, seed=21)),
    }
    return replace(space, extra=extra)


SHARP = {
    "locoop": {"tau": 0.05},
    "negprompt": {"tau": 0.05},
    "local_prompt": {"tau": 0.05, "top": 2},
    "supreme": {"tau": 0.05},
    "lsn": {"tau": 0.05},
    "lapt": {"groups": 1},
    "id_like": {},
    "clipn": {"score": "ctw"},
}


def blob(texts, seed, count=100):
    near = texts[torch.arange(count) % len(texts)]
    return F.normalize(near + 0.6 * unit(count, SIZE, seed=seed))


@pytest.mark.parametrize("name", SHARP)
def test_blobs_and_batches(space, name):
    space = everything(space)
    if name == "lsn":
        space = replace(space, extra={"no": space.extra["no"][None]})
    method = get_method(name)
    detector = method.make(method.make_settings(SHARP[name])).fit(space)
    local = "patches" in method.needs

    def score(images, batch=1000):
        stream = torch.stack([images, images, images.flip(0).flip(0)]) if local else images[None]
        parts = [p if local else p[0] for p in stream.split(batch, dim=1)]
        return torch.cat([detector.step(p).score for p in parts])

    ids, oods = blob(space.labels, 30), blob(space.negatives[:6], 31)
    labels = np.repeat([1, 0], 100)

    def auroc(a, b):
        return 100 * roc_auc_score(labels, torch.cat([score(a), score(b)]).numpy())

    assert auroc(ids, oods) > 80
    assert abs(auroc(ids, blob(space.labels, 32)) - 50) < 9
    close(score(ids, 7), score(ids))
    close(score(ids.flip(0)).flip(0), score(ids))
    assert detector.state_dict() == {}
    assert not method.order_dependent and not method.transductive


@pytest.mark.parametrize("detector", [LocalPrompt(), Supreme(), LSN(), CLIPN(), ZOC(), ANTS()])
def test_spaces_without_their_extra(space, detector):
    with pytest.raises(DetectorError, match="extra"):
        detector.fit(space)


# ---- captions ------------------------------------------------------------------------------


def test_read_captions(tmp_path):
    path = tmp_path / "captions.txt"
    rows = ["# comment", "a/1.jpg\ta bee| a red flower ", "", "a/2.jpg\t"]
    rows.append(json.dumps({"image": "a/3.jpg", "captions": ["tab\there"]}))
    path.write_text("\n".join(rows))
    assert read_captions(str(path)) == {
        "a/1.jpg": ("a bee", "a red flower"),
        "a/2.jpg": (),
        "a/3.jpg": ("tab\there",),
    }
    with pytest.raises(SettingsError, match="captions is 'none'"):
        read_captions("none")
    for bad in ("a/1.jpg a bee", '{"image": "x"}', '{"image": "x", "captions": "bee"}', "{"):
        path.write_text(f"ok\tfine\n{bad}\n")
        with pytest.raises(SettingsError, match="line 2"):
            read_captions(str(path), "captions")
    path.write_text("# nothing\n")
    with pytest.raises(SettingsError, match="no line"):
        read_captions(str(path))


def test_captions_from_a_callable(backbone):
    asked = []

    def captioner(name):
        asked.append(name)
        return [f"something in {name}", "a bee", "a bee"]

    extra = caption_tensors(backbone, collect_captions(["x", "y"], captioner), "{}")
    assert asked == ["x", "y"]
    assert extra["caption_texts"].shape == (3, 64)  # "a bee" once
    assert extra["caption_offsets"].tolist() == [0, 2, 4]
    assert extra["caption_keys"].tolist() == sorted([image_id("x"), image_id("y")])


@pytest.fixture
def caption_file(tmp_path):
    path = tmp_path / "candidates.txt"
    path.write_text("img0\tbee|Sea Lion|flower\nimg1\t\nimg2\tlamp\n")
    return str(path)


def test_zoc(backbone, source, caption_file):
    method = get_method("zoc")
    settings = method.make_settings({"captions": caption_file})
    space = source.space_for(method, settings)
    features = unit(4, 64, seed=3)
    ids = image_ids(["img2", "img0", "img1", "img0"])
    pred, score = method.make(settings).fit(space).step(features, ids)
    candidates = {"img0": ["bee", "flower"], "img1": [], "img2": ["lamp"]}  # labels left out
    for b, image in enumerate(("img2", "img0", "img1", "img0")):
        prompts = [f"This is a photo of a {w}" for w in [*NAMES, *candidates[image]]]
        texts = backbone.encode_text(prompts).double()
        p = (backbone.logit_scale * texts @ features[b].double()).softmax(0)
        assert score[b].item() == pytest.approx(p[: len(NAMES)].sum().item(), abs=1e-5)
        assert pred[b].item() == int(p[: len(NAMES)].argmax())
    assert score[2] == 1
    single = [
        method.make(settings).fit(space).step(features[b : b + 1], ids[b : b + 1]).score
        for b in range(4)
    ]
    close(torch.cat(single), score)
    with pytest.raises(DetectorError, match="1 of 2 images"):
        method.make(settings).fit(space).step(features[:2], image_ids(["img0", "img9"]))


def test_zoc_blobs():
    labels, others = unit(CLASSES, SIZE, seed=1), unit(40, SIZE, seed=2)
    ids, oods = blob(labels, 3, 60), blob(others, 4, 60)
    # Every image has two candidates; an OOD image's own text is one of them.
    rows = torch.stack([torch.arange(120) % 40, (torch.arange(120) * 7 + 3) % 40], 1)
    rows[60:, 0] = torch.arange(60) % 40
    extra = {
        "caption_keys": torch.arange(120),
        "caption_offsets": torch.arange(0, 241, 2),
        "caption_rows": rows.flatten(),
        "caption_texts": others,
    }
    space = TextSpace(labels=labels, logit_scale=SCALE, negatives=labels[:0], extra=extra)
    score = ZOC().fit(space).step(torch.cat([ids, oods]), torch.arange(120)).score
    truth = np.repeat([1, 0], 60)
    assert roc_auc_score(truth, score.numpy()) > 0.95
    again = torch.cat([ids, blob(labels, 5, 60)])
    same = ZOC().fit(space).step(again, torch.arange(120).roll(60)).score
    score = ZOC().fit(space).step(again, torch.arange(120)).score
    mean = (score + same) / 2  # either half with either candidates
    assert abs(roc_auc_score(truth, mean.numpy()) - 0.5) < 0.12


# ---- ANTS ----------------------------------------------------------------------------------


class SlowANTS:
    def __init__(self, space, settings):
        self.space, self.o = space, settings
        self.e = space.labels.double().numpy()
        self.captions = {}
        offsets, rows = space.extra["caption_offsets"], space.extra["caption_rows"]
        for i, key in enumerate(space.extra["caption_keys"].tolist()):
            self.captions[key] = rows[offsets[i] : offsets[i + 1]].tolist()
        self.far, self.near, self.wait = [], {}, []
        self.theta, self.scores, self.pred = settings.theta, [], []
        self.rounds = self.batches = 0
        self.history = ([], [])

    def mass(self, h, texts, length):
        groups = max(len(texts) // length, 1)
        order = group_order(len(texts), groups).numpy()
        z = np.exp(SCALE * self.e @ h).sum()
        y = np.exp(SCALE * texts[order] @ h).reshape(groups, -1).sum(1)
        return float(np.mean(z / (z + y)))

    def step(self, batch, ids):
        o, extra = self.o, self.space.extra
        batch = batch.double().numpy()
        negatives = self.space.negatives.double().numpy()
        self.batches += 1
        static = [self.mass(h, negatives, o.group_length) for h in batch]
        self.pred += [int((self.e @ h).argmax()) for h in batch]
        self.scores += static
        self.wait += [k for k, s in zip(ids.tolist(), static, strict=True) if s < self.theta]
        if self.rounds < o.rounds and len(self.wait) > o.round_size:
            counts = [0] * 10
            for s in self.scores:
                counts[min(int(s * 10), 9)] += 1
            steps = [abs(b - a) for a, b in itertools.pairwise(counts)]
            edge = (steps.index(max(steps)) + 1) / 10
            below = [s for s in self.scores if s < edge]
            if below:
                self.theta = float(np.percentile(below, 100 * o.eta))
            new = []
            for key in self.wait:
                for row in self.captions[key]:
                    new += [row] if row not in new else []
            self.far = (new + self.far)[-o.far_capacity :]
            self.wait, self.rounds = [], self.rounds + 1
        if self.batches >= 10 and (self.batches - 10) % 40 == 0:
            count = [(-self.pred.count(c), c) for c in range(len(self.e)) if c in self.pred]
            top = [c for _, c in sorted(count)[: o.frequent]]
            self.near = {c: 0 for c in [*[c for c in self.near if c in top], *top]}
        offsets, rows = extra["lookalike_offsets"], extra["lookalike_rows"]
        near = []
        for c in self.near:
            near += [r for r in rows[offsets[c] : offsets[c + 1]].tolist() if r not in near]
        out, long = [], 10 * o.group_length
        far_texts = extra["caption_texts"].double().numpy()[self.far]
        near_texts = extra["lookalike_texts"].double().numpy()[near]
        scored = []
        for h, s in zip(batch, static, strict=True):
            far = far_long = close_by = close_long = s
            if self.far:
                many = len(self.far) > long
                far = self.mass(h, far_texts, o.group_length if many else len(far_texts))
                far_long = self.mass(h, far_texts, long if many else len(far_texts))
            if near:
                close_by = self.mass(h, near_texts, o.group_length)
                close_long = self.mass(h, np.tile(near_texts, (10, 1)), long)
            scored.append((far, close_by))
            self.history[0].append(far_long)
            self.history[1].append(close_long)
        a, b = (1 - np.mean(h) for h in self.history)
        for far, close_by in scored:
            share = {"ada": a / (a + b), "far_only": 1.0, "near_only": 0.0}[o.in_score]
            out.append(share * far + (1 - share) * close_by)
        return out


@pytest.fixture(scope="module")
def ants_stream():
    """(space, features, ids): 240 images, half near labels, with three captions each."""
    labels, negatives = unit(CLASSES, SIZE, seed=1), unit(37, SIZE, seed=2)
    texts, near = unit(90, SIZE, seed=3), unit(14, SIZE, seed=4)
    ids, oods = blob(labels, 5, 120), blob(texts[:30], 6, 120)
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(240, generator=generator)
    rows = torch.randint(90, (240, 3), generator=generator)
    rows[120:, 0] = torch.arange(120) % 30  # an OOD image is captioned rightly
    lists = [torch.tensor([c * 2, c * 2 + 1, 10 + c % 4]) for c in range(CLASSES)]
    extra = {
        "caption_keys": torch.arange(240) * 5,
        "caption_offsets": torch.arange(0, 721, 3),
        "caption_rows": rows.flatten(),
        "caption_texts": texts,
        "lookalike_offsets": torch.arange(0, 3 * CLASSES + 1, 3),
        "lookalike_rows": torch.cat(lists),
        "lookalike_texts": near,
    }
    space = TextSpace(labels=labels, logit_scale=SCALE, negatives=negatives, extra=extra)
    return space, torch.cat([ids, oods])[order], (torch.arange(240) * 5)[order]


def run(detector, features, ids, batch):
    pairs = zip(features.split(batch), ids.split(batch), strict=True)
    return torch.cat([detector.step(f, k).score for f, k in pairs])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_score": "far_only", "eta": 0.8},
        {"in_score": "near_only"},
        {"group_length": 3, "far_capacity": 35, "rounds": 3},
    ],
)
def test_ants_brute_force(ants_stream, options):
    space, features, ids = ants_stream
    options = {"group_length": 6, "round_size": 25, "frequent": 3} | options
    settings = ANTSSettings(**options)
    fast, slow = ANTS(settings).fit(space), SlowANTS(space, settings)
    for f, k in zip(features.split(12), ids.split(12), strict=True):
        expected = torch.tensor(slow.step(f, k), dtype=torch.float64)
        close(fast.step(f, k).score.double(), expected, 2e-5)
    if settings.in_score != "near_only":
        assert len(fast._waiting) == len(slow.wait)
        assert fast._far_rows == slow.far and slow.rounds >= 2
        assert fast._theta == pytest.approx(slow.theta, abs=1e-6)
    if settings.in_score != "far_only":
        assert fast._near_classes == list(slow.near)


def test_ants_state(ants_stream):
    space, features, ids = ants_stream
    settings = ANTSSettings(group_length=6, round_size=25, frequent=3)
    detector = ANTS(settings).fit(space)
    whole = run(detector, features, ids, 12)
    detector.reset()
    assert torch.equal(run(detector, features, ids, 12), whole)
    first = ANTS(settings).fit(space)
    run(first, features[:132], ids[:132], 12)
    second = ANTS(settings).fit(space)
    second.load_state_dict(first.state_dict())
    close(run(second, features[132:], ids[132:], 12), whole[132:])
    for name, value in detector.state_dict().items():
        close(second.state_dict()[name].double(), value.double())
    with pytest.raises(DetectorError, match="lacks"):
        second.load_state_dict({})
    other = replace(space, labels=space.labels[:3])
    with pytest.raises(DetectorError, match="another"):
        ANTS(settings).fit(other).load_state_dict(first.state_dict())


def test_ants_depends_on_batches_and_beats_its_start(ants_stream):
    space, features, ids = ants_stream
    settings = ANTSSettings(group_length=6, round_size=25, in_score="far_only")
    scores = [run(ANTS(settings).fit(space), features, ids, size) for size in (12, 40)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3
    # The caption of an OOD image names it, so the second half is told apart well.
    truth = (ids < 600).numpy()
    assert roc_auc_score(truth[120:], scores[0][120:].numpy()) > 0.9
    nobody = ANTS(replace(settings, rounds=0)).fit(space)
    plain = NegLabel(NegLabelSettings(groups=6)).fit(space).step(features).score
    close(run(nobody, features, ids, 12), plain)


def test_ants_of_one_distribution_is_chance(ants_stream):
    space, _, ids = ants_stream
    both = torch.cat([blob(space.labels, 8, 120), blob(space.labels, 9, 120)])
    order = torch.randperm(240, generator=torch.Generator().manual_seed(3))
    settings = ANTSSettings(group_length=6, round_size=25)
    score = run(ANTS(settings).fit(space), both[order], ids, 12)
    assert abs(roc_auc_score((order < 120).numpy(), score.numpy()) - 0.5) < 0.1


def test_ants_refuses_without_a_trace(ants_stream):
    space, features, ids = ants_stream
    detector = ANTS(ANTSSettings(group_length=6)).fit(space)
    before = detector.state_dict()
    with pytest.raises(DetectorError, match="images have no line"):
        detector.step(features[:40], ids[:40] + 1)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name])


def test_far_threshold():
    scores = torch.tensor([0.05, 0.06, 0.07, 0.08, 0.95])
    assert far_threshold(scores, 0.5, 0.8) == pytest.approx(0.065)
    assert far_threshold(torch.tensor([0.95]), 0.5, 0.8) == 0.8


def test_ants_space(backbone, source, words, tmp_path):
    far, near = tmp_path / "far.txt", tmp_path / "near.txt"
    far.write_text("img0\tA bee.|a lamp\nimg1\ta lamp.\n")
    near.write_text("Tabby Cat\tocelot|lynx\nship\tferry\n")
    method = get_method("ants")
    values = {"corpus": words, "num_negatives": 12, "captions": str(far), "lookalikes": str(near)}
    settings = method.make_settings(values)
    space = source.space_for(method, settings)
    assert space.extra["caption_texts"].shape == (2, 64)  # full stops go, "a lamp" is one text
    close(space.extra["lookalike_texts"], backbone.encode_text(["ocelot", "lynx", "ferry"]))
    assert space.extra["lookalike_offsets"].tolist() == [0, 0, 0, 2, 3]
    detector = method.make(settings).fit(space)
    assert detector.step(unit(2, 64), image_ids(["img1", "img0"])).score.shape == (2,)
    with pytest.raises(SettingsError, match="lookalikes is 'none'"):
        settings = method.make_settings(values | {"lookalikes": "none"})
        source.space_for(method, settings)
    only = method.make_settings(values | {"lookalikes": "none", "in_score": "far_only"})
    assert "lookalike_texts" not in source.space_for(method, only).extra
    near.write_text("horse\tdonkey\n")
    with pytest.raises(SettingsError, match="class names"):
        source.space_for(method, method.make_settings(values | {"eta": 0.4}))


# ---- the table -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_rows_and_presets(name):
    method = get_method(name)
    assert set(method.presets) == {"imagenet", "cifar10", "cifar100"}
    for preset in method.presets.values():
        method.make_settings(preset)
    assert method.space is not None


@pytest.mark.parametrize("name", METHODS)
def test_yaml(name):
    path = Path(__file__).parents[2] / "configs" / "postprocessors" / f"{name}.yml"
    block = yaml.safe_load(path.read_text())["postprocessor"]
    assert list(block) == ["name", "APS_mode", "postprocessor_args", "postprocessor_sweep"]
    assert block["name"] == name and block["APS_mode"] is False
    method = get_method(name)
    args = block["postprocessor_args"]
    assert method.make_settings(args) == method.make_settings()
    for key, values in block["postprocessor_sweep"].items():
        for value in values:
            method.make_settings(args | {key.removesuffix("_list"): value})
    # OpenOOD casts command-line values to the type in the file: a float needs its dot there.
    plain = as_mapping(method.make_settings())
    assert all(type(args[key]) is type(plain[key]) for key in args)

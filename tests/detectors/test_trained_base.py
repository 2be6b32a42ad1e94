"""Methods with trained prompts, towers or captions: layouts, checkpoints, what holds for all."""

import copy
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
from trained_helpers import CLASSES, NAMES, SIZE, WIDTH, blob, by_hand, close, randn, unit

from openood_interneg.detectors.ants import ANTS
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.clipn import CLIPN
from openood_interneg.detectors.local_prompt import LocalPrompt
from openood_interneg.detectors.lsn import LSN
from openood_interneg.detectors.registry import get_method
from openood_interneg.detectors.supreme import Supreme
from openood_interneg.detectors.zoc import ZOC
from openood_interneg.settings import SettingsError, as_mapping
from openood_interneg.vlm.patches import PatchError, encode_with_patches
from openood_interneg.vlm.trained_prompts import (
    TrainedPromptError,
    learned_prompts,
    pick,
    read_checkpoint,
)

METHODS = ("locoop", "lapt", "negprompt", "local_prompt", "supreme", "lsn", "id_like", "clipn")
METHODS += ("zoc", "ants")


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


def test_patch_features(backbone):
    images = randn(3, 3, 32, 32)
    views = encode_with_patches(backbone, images)
    assert views.shape == (1 + 16, 3, 64)
    assert torch.equal(views[0], backbone.encode_image(images))
    close(views.norm(dim=-1), torch.ones(17, 3))
    assert not backbone.model.visual.transformer.resblocks[-1]._forward_hooks
    expected = patches_by_hand(copy.deepcopy(backbone.model), images)
    close(views[1:].double(), expected)


def test_patch_features_refuse():
    class Other:
        name, model = "RN50", torch.nn.Module()

    Other.model.visual = torch.nn.Module()
    with pytest.raises(PatchError, match="RN50"):
        encode_with_patches(Other, randn(1, 3, 32, 32))


def everything(prompt_space):
    """A prompt_space with all that any of these methods asks for."""
    extra = {
        "local": prompt_space.labels,
        "image": F.normalize(prompt_space.labels + 0.1 * unit(CLASSES, SIZE, seed=20)),
        "no": F.normalize(0.3 * prompt_space.labels + unit(CLASSES, SIZE, seed=21)),
    }
    return replace(prompt_space, extra=extra)


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


@pytest.mark.parametrize("name", SHARP)
def test_blobs_and_batches(prompt_space, name):
    prompt_space = everything(prompt_space)
    if name == "lsn":
        prompt_space = replace(prompt_space, extra={"no": prompt_space.extra["no"][None]})
    method = get_method(name)
    detector = method.make(method.make_settings(SHARP[name])).fit(prompt_space)
    local = "patches" in method.needs

    def score(images, batch=1000):
        stream = torch.stack([images, images, images.flip(0).flip(0)]) if local else images[None]
        parts = [p if local else p[0] for p in stream.split(batch, dim=1)]
        return torch.cat([detector.step(p).score for p in parts])

    ids, oods = blob(prompt_space.labels, 30), blob(prompt_space.negatives[:6], 31)
    labels = np.repeat([1, 0], 100)

    def auroc(a, b):
        return 100 * roc_auc_score(labels, torch.cat([score(a), score(b)]).numpy())

    assert auroc(ids, oods) > 80
    assert abs(auroc(ids, blob(prompt_space.labels, 32)) - 50) < 9
    close(score(ids, 7), score(ids))
    close(score(ids.flip(0)).flip(0), score(ids))
    assert detector.state_dict() == {}
    assert not method.order_dependent and not method.transductive


@pytest.mark.parametrize("detector", [LocalPrompt(), Supreme(), LSN(), CLIPN(), ZOC(), ANTS()])
def test_spaces_without_their_extra(prompt_space, detector):
    with pytest.raises(DetectorError, match="extra"):
        detector.fit(prompt_space)


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

"""Hugging Face's folders, names and objects give what the same weights give elsewhere."""

import json
import re

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from openood_interneg import load_backbone
from openood_interneg.negatives.stored_inversion import live_inverter
from openood_interneg.settings import InterNegSettings
from openood_interneg.vlm.clip_weights import CheckpointError
from openood_interneg.vlm.dual_encoder import DualEncoder
from openood_interneg.vlm.hf_layout import hf_preprocess, openai_layout
from openood_interneg.vlm.loaders.base import WeightsError, find_loader
from openood_interneg.vlm.pseudo_prompts import PseudoPrompts
from openood_interneg.vlm.text_tower import CausalTextTower
from openood_interneg.vlm.tokenizers import TokenizerError

TEXTS = ["a photo of a cat.", "Dogs", "an old, rusty boat"]
PROCESSOR = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "resample": 3,
}


def theirs(name: str) -> list[tuple[str, int | None]]:
    """transformers' names of one of OpenAI's weights; with which third of it, or None for all."""
    name = re.sub(r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers.", name)
    name = re.sub(r"^transformer\.resblocks\.", "text_model.encoder.layers.", name)
    for ours, other in (
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("visual.proj", "visual_projection.weight"),
        ("ln_final", "text_model.final_layer_norm"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ):
        name = name.replace(ours, other)
    if name == "positional_embedding":
        name = "text_model.embeddings.position_embedding.weight"
    name = name.replace("token_embedding.weight", "text_model.embeddings.token_embedding.weight")
    if name == "text_projection":
        name = "text_projection.weight"
    if "attn.in_proj" in name:
        start, kind = name.split("attn.in_proj_")
        return [(f"{start}self_attn.{part}_proj.{kind}", i) for i, part in enumerate("qkv")]
    return [(name, None)]


def hugging_face_state(model) -> dict[str, torch.Tensor]:
    """The weights of a model of open_clip as transformers names them."""
    out = {}
    for name, tensor in model.state_dict().items():
        if name == "attn_mask":
            continue
        for other, third in theirs(name):
            part = tensor if third is None else tensor.chunk(3)[third]
            if other in ("text_projection.weight", "visual_projection.weight"):
                part = part.t()
            out[other] = part.clone().contiguous()
    return out


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = open_clip.CLIP(
        embed_dim=24,
        vision_cfg=dict(image_size=32, layers=2, width=64, patch_size=16, head_width=16),
        text_cfg=dict(width=64, heads=2, layers=2),
        quick_gelu=True,
    ).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    torch.nn.init.constant_(made.logit_scale, 3.0)
    return made


CONFIG = {
    "model_type": "clip",
    "text_config": {"num_attention_heads": 2, "vocab_size": 49408},
    "vision_config": {"num_attention_heads": 4, "hidden_size": 64, "image_size": 32},
}


def write_folder(folder, state, config=CONFIG, form="safetensors"):
    """A folder as `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "parts":
        names = sorted(state)
        parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for part, held in parts.items():
            save_file({name: state[name] for name in held}, folder / part)
        index = {name: part for part, held in parts.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def photograph(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def features(backbone, sizes=((40, 40), (91, 33))):
    """Of a few images of random pixels and of texts."""
    transform = backbone.preprocess.transform()
    pixels = torch.stack([transform(photograph(*size)) for size in sizes])
    return backbone.encode_image(pixels), backbone.encode_text(TEXTS)


@pytest.mark.parametrize("form", ["safetensors", "bin", "parts"])
def test_the_same_weights_are_the_same_model_through_every_door(model, tmp_path, form):
    folder = write_folder(tmp_path / "clip", hugging_face_state(model), form=form)
    openai = tmp_path / "openai.safetensors"
    save_file({k: v for k, v in model.state_dict().items() if k != "attn_mask"}, openai)
    (tmp_path / "openai.json").write_text(
        json.dumps(
            {
                "quick_gelu": True,
                "text_cfg": {"heads": 2},
                "vision_cfg": {"head_width": 16},
            }
        )
    )
    doors = [load_backbone(source) for source in (model, openai, str(folder))]
    assert len({door.digest for door in doors}) == 1
    expected = features(doors[0])
    for door in doors[1:]:
        for mine, theirs_ in zip(features(door), expected, strict=True):
            assert torch.equal(mine, theirs_)
    assert doors[2].name == "clip"
    # The fast path of inversion is the towers' own.
    assert isinstance(doors[2].text_tower, CausalTextTower)
    assert isinstance(doors[2].pseudo_prompts(["a photo of {}"], 1), PseudoPrompts)


def test_a_lone_file_in_hugging_faces_layout(model, tmp_path):
    folder = write_folder(tmp_path / "clip", hugging_face_state(model))
    file = folder / "model.safetensors"
    told = load_backbone(file)  # its config.json says how many heads there are
    assert told.digest == load_backbone(model).digest
    (folder / "config.json").unlink()
    with pytest.warns(UserWarning, match="nothing says which activation"):
        load_backbone(file)


def test_gelu_is_not_quick_gelu(model, tmp_path):
    config = {
        **CONFIG,
        "text_config": CONFIG["text_config"] | {"hidden_act": "gelu"},
        "vision_config": CONFIG["vision_config"] | {"hidden_act": "gelu"},
    }
    quick = write_folder(tmp_path / "quick", hugging_face_state(model))
    exact = write_folder(tmp_path / "exact", hugging_face_state(model), config)
    a, b = (load_backbone(str(folder)) for folder in (quick, exact))
    assert a.digest != b.digest
    assert not torch.allclose(features(a)[1], features(b)[1], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resample": 1}, "resample is 1; 2 .bilinear. and 3 .bicubic."),
        ({"size": {"height": 40, "width": 40}}, "the image tower takes squares of 32"),
        ({"crop_size": {"height": 16, "width": 16}}, "the image tower takes squares of 32"),
        ({"do_normalize": False}, "not resized and normalised"),
    ],
)
def test_preprocessing_that_is_not_ours_is_refused(change, said):
    with pytest.raises(CheckpointError, match=said):
        hf_preprocess(PROCESSOR | change, 32, "preprocessor_config.json")


def test_what_preprocessing_says():
    found = hf_preprocess(PROCESSOR | {"image_mean": [0, 0, 0], "size": 40}, 32, "f")
    assert (found.resize, found.size, found.mean) == (40, 32, (0, 0, 0))
    squash = {"size": {"height": 32, "width": 32}, "resample": 2, "image_std": [0.5] * 3}
    found = hf_preprocess(squash, 32, "f")
    assert (found.resize_mode, found.interpolation, found.std) == ("squash", "bilinear", (0.5,) * 3)


def test_damaged_folders_say_what_is_wrong(model, tmp_path):
    state = hugging_face_state(model)
    with pytest.raises(CheckpointError, match="'vision_model.other' is no weight"):
        openai_layout(state | {"vision_model.other": torch.zeros(1)})
    part = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match="lack a part of transformer.resblocks.0.attn"):
        openai_layout({k: v for k, v in state.items() if k != part})
    folder = write_folder(tmp_path / "a", state)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights: neither model.safetensors"):
        load_backbone(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../etc/x"}}')
    with pytest.raises(CheckpointError, match="to files of its folder"):
        load_backbone(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold one JSON object"):
        load_backbone(str(folder))


def test_other_models_ask_for_transformers_by_name_before_any_work(tmp_path, monkeypatch):
    folder = tmp_path / "siglip"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(Exception, match=r"transformers.*hf"):
        load_backbone(str(folder))


def test_a_name_of_the_hub_that_is_not_here(monkeypatch, tmp_path):
    import huggingface_hub

    def refuses(name, **options):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuses)
    with pytest.raises(WeightsError, match="'openai/clip-vit-base-patch16' is not in the hub's"):
        load_backbone("openai/clip-vit-base-patch16")


def test_a_name_of_the_hub_that_is_in_the_cache(model, monkeypatch, tmp_path):
    import huggingface_hub

    folder = write_folder(tmp_path / "snapshot", hugging_face_state(model))

    def cached(name, *, local_files_only=False, **options):
        assert local_files_only, "the network was asked for what is in the cache"
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    found = load_backbone("somebody/clip")
    assert found.name == "somebody/clip" and found.digest == load_backbone(model).digest


@pytest.mark.parametrize("name", ["ViT-B/16", "RN50", "ViT-B/32", "ViT-B-16", "miniature"])
def test_the_papers_names_are_not_the_hubs(name):
    assert type(find_loader(name, None)).__name__ != "HuggingFaceLoader"
    assert type(find_loader("owner/model", None)).__name__ == "HuggingFaceLoader"
    assert type(find_loader("owner/model", "tag")).__name__ != "HuggingFaceLoader"


class Towers(torch.nn.Module):
    """Stands in for a model of transformers: features that show what came in."""

    def __init__(self):
        super().__init__()
        self.text_model = torch.nn.Embedding(50, 8)
        self.vision_model = torch.nn.Linear(3, 8)
        self.logit_scale = torch.nn.Parameter(torch.tensor([2.0]))
        self.seen = {}

    def get_image_features(self, pixel_values):
        return self.vision_model(pixel_values.mean(dim=(2, 3)))

    def get_text_features(self, input_ids, attention_mask=None):
        self.seen["mask"] = attention_mask
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return (self.text_model(input_ids) * mask[..., None]).sum(dim=1)


@pytest.mark.parametrize(
    ("pad", "eos", "mask"),
    [
        (None, 2, None),
        (1, 2, [1, 1, 1, 0, 0]),
        (2, 2, [1, 1, 1, 0, 0]),
    ],
)
def test_padding_is_attended_to_only_where_the_model_was_trained_so(pad, eos, mask):
    towers = Towers()
    adapted = DualEncoder(towers, image_size=4, context_length=5, pad=pad, eos=eos)
    fill = 2 if pad is None else pad
    adapted.encode_text(torch.tensor([[5, 6, 2, fill, fill]]))
    seen = towers.seen["mask"]
    assert seen is None if mask is None else seen.tolist() == [mask]


def test_objects_without_tokenizer_or_processor_are_refused():
    with pytest.raises(CheckpointError, match="is no dual encoder of images and texts"):
        DualEncoder(torch.nn.Linear(2, 2), image_size=4, context_length=5, pad=None, eos=None)


# ---- against transformers itself ------------------------------------------------------------


def randomised(made):
    torch.manual_seed(0)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    torch.nn.init.constant_(made.logit_scale, 3.0)
    return made.eval()


def expected_features(made, processor, ids, sizes):
    """transformers' own features, normalised."""
    images = [photograph(*size) for size in sizes]
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        found = made.get_image_features(pixel_values=pixels), made.get_text_features(input_ids=ids)
    rows = [getattr(f, "pooler_output", f) for f in found]
    return [torch.nn.functional.normalize(f, dim=-1) for f in rows]


@pytest.mark.slow
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip_of_transformers(tmp_path, act):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "hidden_act": act}
    config = transformers.CLIPConfig(
        text_config={**sizes, "num_attention_heads": 2},
        vision_config={**sizes, "num_attention_heads": 4, "image_size": 32, "patch_size": 16},
        projection_dim=24,
    )
    made = randomised(transformers.CLIPModel(config))
    made.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(PROCESSOR | {"image_processor_type": "CLIPImageProcessor"})
    )
    folder, object_ = load_backbone(str(tmp_path)), load_backbone(made)
    assert folder.digest == object_.digest
    # The cut is torchvision's, as in OpenAI's code: where an odd number of pixels goes, half a
    # pixel is rounded the other way in transformers. Here it is even.
    shapes = [(40, 40), (91, 33), (33, 91)]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = expected_features(made, processor, folder.tokenizer(TEXTS), shapes)
    for mine, other in zip(features(folder, shapes), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_another_dual_encoder_of_transformers(tmp_path):
    """Chinese CLIP: a BERT as text tower, whose padding is not attended to."""
    transformers = pytest.importorskip("transformers")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"a photo of cat dogs an old boat .".split(),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    made = randomised(
        transformers.ChineseCLIPModel(
            transformers.ChineseCLIPConfig(
                text_config={**sizes, **heads, "vocab_size": 20, "max_position_embeddings": 16},
                vision_config={**sizes, **heads, "image_size": 32, "patch_size": 16},
                projection_dim=24,
            )
        )
    )
    made.save_pretrained(tmp_path)
    squash = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(squash))
    backbone = load_backbone(str(tmp_path))
    pixels = torch.stack([backbone.preprocess.transform()(photograph(50, 40))])
    texts = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        found = made.get_image_features(pixel_values=pixels), made.get_text_features(**texts)
    rows = [getattr(f, "pooler_output", f) for f in found]
    for mine, row in zip(
        (backbone.encode_image(pixels), backbone.encode_text(TEXTS)), rows, strict=True
    ):
        expected = torch.nn.functional.normalize(row, dim=-1)
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_siglip_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pieces = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["a photo of a cat", "an old rusty boat", "dogs q q q q q"] * 50))
    pieces.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=60,
        **{"pad_id": 1, "eos_id": 2, "unk_id": 0, "bos_id": -1},
        hard_vocab_limit=False,
        minloglevel=2,
    )
    folder = tmp_path / "siglip"
    tokenizer = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    text = {**sizes, **heads, "vocab_size": 64, "max_position_embeddings": 16}
    made = randomised(
        transformers.SiglipModel(
            transformers.SiglipConfig(
                text_config=text,
                vision_config={**sizes, **heads, "image_size": 32, "patch_size": 16},
            )
        )
    )
    made.save_pretrained(folder)
    processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    backbone = load_backbone(str(folder))
    assert backbone.preprocess.resize_mode == "squash"
    shapes = [(40, 40), (90, 33), (33, 91)]
    ids = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True)["input_ids"]
    exact = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = expected_features(made, exact, torch.tensor(ids), shapes)
    for mine, other in zip(features(backbone, shapes), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    # '$' is punctuation, which SigLIP drops: another token is replaced by pseudo-tokens.
    inverter = live_inverter(backbone, InterNegSettings(templates="a photo of a {}", steps=2))
    rows = inverter(expected[0], torch.arange(len(shapes)))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(shapes)))
    with pytest.raises(CheckpointError, match="pass load_backbone.model, tokenizer=..., processor"):
        load_backbone(made)
    with pytest.raises(TokenizerError):
        load_backbone(made, processor=exact)
    by_object = load_backbone(made, tokenizer=tokenizer, processor=exact)
    for mine, other in zip(features(by_object, shapes), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    assert by_object.logit_scale == pytest.approx(np.exp(3), rel=1e-5)

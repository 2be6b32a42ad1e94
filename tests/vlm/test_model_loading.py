"""What is asked before a model is loaded, and what is said where it cannot be."""

import io
import json
import sys

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from openood_interneg.settings import (
    MissingPackageError,
    SettingsError,
)
from openood_interneg.vlm import factory
from openood_interneg.vlm.checkpoints import CheckpointError
from openood_interneg.vlm.factory import WeightsError, load_backbone
from openood_interneg.vlm.tokenizers import TokenizerError


class TestDevices:
    def test_a_device_that_is_not_there_is_said_so(self):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(SettingsError, match="device 'cuda' cannot be used here .*'cpu'"):
            load_backbone("miniature", device="cuda")

    def test_a_device_of_no_kind_is_said_so(self):
        with pytest.raises(SettingsError, match="device 'gpu' cannot be used here"):
            load_backbone("miniature", device="gpu")

    def test_auto_is_a_device(self):
        assert load_backbone("miniature", device="auto").device.type in ("cpu", "cuda")


VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"width": 64, "heads": 2, "layers": 2}
ARCHITECTURE = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture
def named(monkeypatch):
    """A small architecture that open_clip and the paper's names know, as they know ViT-B/32."""
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, "tiny-1", ARCHITECTURE)
    monkeypatch.setitem(known, "tiny-1-quickgelu", ARCHITECTURE | {"quick_gelu": True})
    monkeypatch.setitem(factory.OPENAI_BACKBONES, "tiny/1", "tiny-1-quickgelu")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**ARCHITECTURE).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def activation(backbone) -> str:
    towers = (backbone.model, backbone.model.visual)
    (kind,) = {type(tower.transformer.resblocks[0].mlp.gelu).__name__ for tower in towers}
    return kind


class TestActivation:
    def test_openais_weights_from_a_file_run_with_quick_gelu(self, named, weights, recwarn):
        assert activation(load_backbone("tiny/1", pretrained=str(weights))) == "QuickGELU"
        assert not [w for w in recwarn if "activation" in str(w.message)]

    def test_a_file_whose_activation_cannot_be_known_is_warned_of(self, named, weights):
        with pytest.warns(UserWarning, match="tiny-1-quickgelu; or write"):
            assert activation(load_backbone("tiny-1", pretrained=str(weights))) == "GELU"
        with pytest.warns(UserWarning, match="which activation these weights"):
            assert activation(load_backbone(weights)) == "QuickGELU"

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["tiny/1", "tiny-1", "tiny-1-quickgelu", None])
    @pytest.mark.parametrize("quick", [True, False])
    def test_the_file_beside_the_weights_decides(self, named, weights, recwarn, name, quick):
        weights.with_suffix(".json").write_text(json.dumps({"quick_gelu": quick}))
        source, pretrained = (name, weights) if name else (weights, None)
        backbone = load_backbone(source, pretrained=pretrained)
        assert activation(backbone) == ("QuickGELU" if quick else "GELU")
        assert not [w for w in recwarn if "activation" in str(w.message)]

    @pytest.mark.parametrize(("quick", "kind"), [(True, "QuickGELU"), (None, "GELU")])
    def test_a_tag_has_its_own_activation(self, named, weights, monkeypatch, quick, kind):
        tag = {"url": "", "quick_gelu": quick, "mean": None}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-1", {"some": tag})
        found = "download_pretrained"
        monkeypatch.setattr(open_clip.factory, found, lambda *args, **options: str(weights))
        assert activation(load_backbone("tiny-1", pretrained="some")) == kind
        assert activation(load_backbone("tiny/1", pretrained="some")) == kind


class TestTokenizers:
    @pytest.mark.parametrize("vocabulary", [32000, 256000])
    def test_another_vocabulary_than_clips_is_refused(self, vocabulary):
        text = TEXT | {"vocab_size": vocabulary, "width": 8, "context_length": 16}
        model = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=VISION, text_cfg=text)
        with pytest.raises(TokenizerError, match=f"vocabulary of {vocabulary} .*tokenizer="):
            load_backbone(model)
        own = lambda texts: torch.full((len(texts), 16), vocabulary - 1)  # noqa: E731
        assert load_backbone(model, tokenizer=own).encode_text(["a"]).shape == (1, 32)

    def test_an_end_of_text_that_clip_has_not_is_refused(self):
        text = TEXT | {"pool_type": "eos", "eos_id": 2}
        model = open_clip.CLIP(embed_dim=32, vision_cfg=VISION, text_cfg=text)
        with pytest.raises(TokenizerError, match="reads the text at token 2"):
            load_backbone(model)

    @pytest.mark.parametrize(
        ("tokenizer", "message"),
        [
            (lambda texts: {"input_ids": []}, "returns a dict"),
            (lambda texts: torch.zeros(len(texts), 77), "float32 tensor"),
            (lambda texts: torch.full((len(texts), 77), 50000), "ids up to 50000"),
            (lambda texts: torch.zeros(len(texts), 78, dtype=torch.int64), "78 positions"),
            (lambda texts: texts.lower(), "fails on a list of texts"),
        ],
    )
    def test_a_tokenizer_of_another_model_is_refused(self, tokenizer, message):
        with pytest.raises(TokenizerError, match=message):
            load_backbone(open_clip.CLIP(**ARCHITECTURE), tokenizer=tokenizer)

    def test_a_custom_text_tower_says_its_context(self):
        text = TEXT | {"context_length": 24}
        model = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=VISION, text_cfg=text)
        assert load_backbone(model).tokenizer(["a"]).shape == (1, 24)

    def test_the_package_of_a_tokenizer_is_asked_for_before_the_weights(self, monkeypatch):
        def never(*args, **options):
            raise AssertionError("the model is built")

        monkeypatch.setitem(sys.modules, "transformers", None)
        monkeypatch.setattr(open_clip, "create_model", never)
        with pytest.raises(MissingPackageError, match="ViT-B-16-SigLIP needs .*transformers"):
            load_backbone("ViT-B-16-SigLIP", pretrained="webli")


class TestTexts:
    def test_torchscript_as_weights_of_a_name_says_so(self, named, tmp_path):
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
        (tmp_path / "ViT-B-32.pt").write_bytes(buffer.getvalue())
        with pytest.raises(CheckpointError, match="TorchScript archive.*state_dict"):
            load_backbone("tiny/1", pretrained=tmp_path / "ViT-B-32.pt")

    def test_weights_of_another_architecture_are_said_so(self, named, weights, tmp_path):
        save_file({"visual.proj": torch.zeros(3)}, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match="do not fit open_clip's tiny-1-quickgelu"):
            load_backbone("tiny/1", pretrained=tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            load_backbone("tiny/1", pretrained=tmp_path / "absent.pt")

    def test_a_tag_that_does_not_exist_names_those_that_do(self):
        with pytest.raises(WeightsError, match="no weights 'laion' of ViT-B/32.*laion2b"):
            load_backbone("ViT-B/32", pretrained="laion")

    def test_a_failed_download_says_what_failed(self, named, monkeypatch):
        def fail(*args, **options):
            raise RuntimeError(
                "Failed to download file (open_clip_model.safetensors) for a/b. Last error: An "
                "error happened while trying to locate the file on the Hub"
            )

        tag = {"url": "", "hf_hub": "a/b/"}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-1", {"some": tag})
        monkeypatch.setattr(open_clip.factory, "download_pretrained", fail)
        with pytest.raises(WeightsError) as caught:
            load_backbone("tiny-1", pretrained="some")
        said = str(caught.value)
        assert "(An error happened while trying to locate the file on the Hub)" in said
        assert "`hf auth login`" in said and "huggingface-cli" not in said

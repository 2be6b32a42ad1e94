"""A family of backbones is one class that registers itself."""

import pytest

from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.loaders import base
from openood_interneg.vlm.loaders.base import LoadedModel, Loader, find_loader, register_loader


@pytest.mark.parametrize(
    ("source", "pretrained", "module"),
    [
        ("miniature", None, "miniature"),
        ("some/where/clip.pt", None, "checkpoint_file"),
        ("ViT-B/16", None, "open_clip_names"),
        ("ViT-B-16", "clip.pt", "open_clip_names"),
        ("hf-hub:a/b", None, "open_clip_names"),
    ],
)
def test_the_family_of_a_source(source, pretrained, module):
    assert type(find_loader(source, pretrained)).__module__.endswith(f".{module}")


def test_a_family_is_added_by_registering_it(monkeypatch):
    known = load_backbone("miniature")
    monkeypatch.setattr(base, "_LOADERS", [*base._LOADERS])

    @register_loader
    class Mine(Loader):
        priority = 1

        def accepts(self, source, pretrained):
            return source == "mine"

        def load(self, source, pretrained, *, own_tokenizer):
            return LoadedModel(known.model, known.preprocess, "Mine")

    backbone = load_backbone("mine")
    assert (backbone.name, backbone.digest) == ("Mine", known.digest)
    assert load_backbone("mine", name="other").name == "other"

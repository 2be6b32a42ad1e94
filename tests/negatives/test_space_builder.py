"""Text spaces out of the store: mined from any shards, kept whole, refused without ID images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import random_clip

from openood_interneg.data.store import Store
from openood_interneg.negatives import space_builder, stored_texts
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.settings import NegativeSettings, SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.text_precision import text_backbone


def test_ranks_are_merged_from_any_shards(tmp_path, monkeypatch):
    """What is mined depends neither on how the corpus is cut nor on who ranked which shard."""
    backbone = random_clip()
    words = [f"{a} {b}" for a in "red old big wet".split() for b in "dog sea car hat tin".split()]
    (tmp_path / "words.txt").write_text("\n".join(words), encoding="utf-8")

    def mined(root):
        images = SimpleNamespace(labels=np.arange(3), features=lambda at: near[torch.tensor(at)])
        source = TextSpaceBuilder(backbone, ["ant", "bee", "cow"], images, Store(root))
        labels = source.labels("a photo of a {}")
        near = F.normalize(labels + 0.05 * torch.eye(*labels.shape), dim=1)
        settings = NegativeSettings(
            corpus=str(tmp_path / "words.txt"),
            label_prompt="a photo of a {}",
            images_per_class=1,
            num_negatives=7,
        )
        return source.mined(settings)

    whole = mined(None)
    assert len(whole.words) > 0 and whole.passing["noun"] > 3
    monkeypatch.setattr(stored_texts, "TEXTS_PER_SHARD", 3)
    for turn in range(3):
        again = mined(tmp_path / "store")
        assert again.words == whole.words and again.passing == whole.passing
        torch.testing.assert_close(again.features, whole.features)
        shards = sorted((tmp_path / "store" / "ranks").glob("*/*.safetensors"))
        assert len(shards) == 7
        shards[turn].unlink()  # as if its process had been killed
        shards[-1].write_bytes(shards[-1].read_bytes()[:-5])
        (found,) = (tmp_path / "store" / "mined").glob("*/*.safetensors")
        found.unlink()


def test_mined_texts_are_kept_whole(tmp_path, monkeypatch):
    """The second time nothing is encoded, ranked or even read; a changed corpus is mined anew."""
    backbone = random_clip()
    words = tmp_path / "words.txt"
    words.write_text("\n".join("red dog,old sea,wet car,big hat,tin ant".split(",")))
    settings = NegativeSettings(
        corpus=str(words), num_negatives=3, negatives="intra", label_prompt="a photo of a {}"
    )

    def mined():
        return TextSpaceBuilder(backbone, ["ant", "bee"], None, Store(tmp_path / "store")).mined(
            settings
        )

    first = mined()
    assert len(first.words) == 3
    with monkeypatch.context() as patch:
        for module, name in ((space_builder, "load_corpus"), (Backbone, "encode_text")):
            patch.setattr(module, name, lambda *a, **k: pytest.fail("the work was done again"))
        again = mined()
    assert (again.words, again.parts_of_speech, again.passing) == (
        (first.words, first.parts_of_speech, first.passing)
    )
    for name in ("features", "deviation", "margin"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    words.write_text("\n".join("red dog,old sea,wet car,big hat,tin bee".split(",")))
    assert set(mined().words) <= {"red dog", "old sea", "wet car", "big hat", "tin bee"}
    assert len(list((tmp_path / "store" / "mined").iterdir())) == 2


def test_a_corpus_in_bf16_is_kept_apart_and_the_labels_stay(tmp_path):
    backbone = random_clip()
    words = tmp_path / "words.txt"
    words.write_text("\n".join("red dog,old sea,wet car,big hat,tin ant".split(",")))
    store = Store(tmp_path / "store")

    def space(precision, names=("ant", "bee")):
        settings = NegativeSettings(
            corpus=str(words),
            num_negatives=9,
            negatives="intra",
            label_prompt="a photo of a {}",
            corpus_precision=precision,
        )
        return TextSpaceBuilder(backbone, names, None, store).build(settings)

    own, low, again = space("same"), space("bf16"), space("same")
    assert torch.equal(own.labels, low.labels)
    assert torch.equal(own.negatives, again.negatives)
    shared = [w for w in low.negative_words if w in own.negative_words]
    assert shared
    rows = [s.negatives[[s.negative_words.index(w) for w in shared]] for s in (own, low)]
    torch.testing.assert_close(rows[0], rows[1], atol=0.05, rtol=0)
    assert not torch.equal(*rows)
    expected = text_backbone(backbone, "bf16").encode_text([f"The nice {w}." for w in shared])
    torch.testing.assert_close(rows[1], expected, atol=0.02, rtol=0)
    assert len(list((tmp_path / "store" / "mined").iterdir())) == 2


def test_inter_modal_negatives_without_id_images_are_refused():
    source = TextSpaceBuilder(random_clip(), ["ant", "bee"])
    with pytest.raises(SettingsError, match=r"need ID training images.*negatives: intra"):
        source.mined(NegativeSettings(negatives="inter"))

"""The loop from images to features: of images, of their views, and of patches."""

import numpy as np
import pytest
import torch
from PIL import Image

from openood_interneg.data.encode import Encoder, Views, kind_name
from openood_interneg.data.image_ids import image_id
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.images import ImageError, read_rgb
from openood_interneg.data.store import Store
from openood_interneg.data.views import ViewMaker, view_names
from openood_interneg.vlm.patches import PatchError


@pytest.fixture(scope="module")
def clip(miniature):
    return miniature


@pytest.fixture
def images(tmp_path) -> ImageList:
    rng = np.random.default_rng(0)
    paths = tuple(f"{i}.png" for i in range(5))
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(tmp_path / path)
    return ImageList("some", tmp_path, paths, np.zeros(5, dtype=np.int64))


def test_features_of_images_are_encoded_once(clip, images, tmp_path):
    store = Store(tmp_path / "store")
    encoder = Encoder(clip, store, batch_size=2)
    found = encoder.features(images)
    transform = clip.preprocess.transform()
    pixels = torch.stack([transform(read_rgb(images.file(i))) for i in range(5)])
    torch.testing.assert_close(found, clip.encode_image(pixels))
    assert encoder.encoded == 5
    again = Encoder(clip, store)
    assert torch.equal(again.features(images), found) and again.encoded == 0


def test_a_batch_starts_anew_in_every_shard(clip, images):
    calls = []
    encoder = Encoder(
        clip,
        Store(None),
        batch_size=2,
        shard_rows=3,
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    encoder.features(images)
    assert calls == [("some", 2, 5), ("some", 1, 5), ("some", 2, 5)]


def test_features_of_views_depend_on_seed_and_name(clip, images, tmp_path):
    encoder = Encoder(clip, Store(tmp_path / "store"), batch_size=30)
    kind = Views("recommended13", seed=3)
    found = encoder.features(images, kind)
    names = view_names("recommended13")
    assert found.shape == (len(names), 5, clip.embed_dim)
    maker, transform = ViewMaker(names, 3, size=clip.preprocess.size), clip.preprocess.transform()
    made = maker(read_rgb(images.file(2)), image_id("2.png"))
    expected = clip.encode_image(torch.stack([transform(view) for view in made]))
    torch.testing.assert_close(found[:, 2], expected)
    assert torch.equal(Encoder(clip, encoder.store).features(images, kind), found)
    assert not torch.equal(encoder.features(images, Views("recommended13", seed=4)), found)


def test_a_backbone_without_patches_has_no_patch_features(clip, images):
    with pytest.raises(PatchError):
        Encoder(clip, Store(None)).features(images, "patches")


def test_an_image_that_cannot_be_read_is_named(clip, images):
    images.file(3).write_bytes(b"no image")
    for kind in ("image", Views("recommended13")):
        with pytest.raises(ImageError, match=r"3\.png"):
            Encoder(clip, Store(None)).features(images, kind)


def test_kinds_have_one_word_each():
    assert [kind_name(k) for k in ("image", "patches", Views("all91"))] == [
        "image",
        "patches",
        "views",
    ]

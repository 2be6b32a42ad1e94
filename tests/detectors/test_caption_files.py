"""Files with captions."""

import json

import pytest

from openood_interneg.data.image_ids import image_id
from openood_interneg.detectors.caption_files import (
    caption_tensors,
    collect_captions,
    read_captions,
)
from openood_interneg.settings import SettingsError


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

"""Tar archives as webdataset lays them out."""

import io
import tarfile

import pytest
from carriers import png, read, shade

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.image_archives import shards
from openood_interneg.data.image_sources import as_sources, carried
from openood_interneg.data.images import ImageError


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_sample_is_an_image_with_its_label(tmp_path):
    members = [
        ("a/001.png", png(10)),
        ("a/001.cls", b"1\n"),
        ("a/002.json", b'{"label": "cat", "more": [1]}'),
        ("a/002.PNG", png(20)),
        ("a/._003.png", b"x"),
        ("a/003.img.png", png(30)),
        ("readme", b"hello"),
    ]
    path = tar(tmp_path / "x.tar", members)
    assert read(path) == [(10, "1"), (20, "cat"), (30, None)]
    images = as_sources(path)
    assert images[0].name == f"{path}/a/001.png"
    with pytest.raises(ImageError, match=r"a/001\.png has .* bytes; the limit is 9"):
        as_image(images[0], ImageLimits(max_bytes=9))


def test_shards_are_read_in_their_order(tmp_path):
    for number in range(9, 12):
        tar(tmp_path / f"x-{number:03d}.tar", [("a.png", png(number))])
    assert [s for s, _ in read(str(tmp_path / "x-{009..011}.tar"))] == [9, 10, 11]
    assert [p.name for p in shards("x-{8..10}.tar")] == ["x-8.tar", "x-9.tar", "x-10.tar"]
    with pytest.raises(ImageError, match=r"the range \{5\.\.2\}"):
        shards("x-{5..2}.tar")


def test_archives_that_cannot_be_read(tmp_path):
    good = [("a.png", png(10)), ("b.png", png(20))]
    with pytest.raises(ImageError, match=r"unpacked first"):
        as_sources(tar(tmp_path / "gz.tar", good, "w:gz"))
    with pytest.raises(ImageError, match=r"none\.tar"):
        as_sources(tmp_path / "none.tar")
    with pytest.raises(ImageError, match="no image in the archive"):
        as_sources(tar(tmp_path / "empty.tar", [("a.txt", b"x")]))
    with pytest.raises(ImageError, match=r"a\.jpg has other images beside it \(png\)"):
        as_sources(tar(tmp_path / "two.tar", [("a.jpg", png(1)), ("a.png", png(2))]))
    with pytest.raises(ImageError, match=r"a\.json cannot be read"):
        as_sources(tar(tmp_path / "json.tar", [("a.jpg", png(1)), ("a.json", b"{")]))
    cut = tar(tmp_path / "cut.tar", good)
    cut.write_bytes(cut.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"cut\.tar"):
        [as_image(image) for image in as_sources(cut)]


def test_links_in_an_archive_are_not_followed(tmp_path):
    path = tar(tmp_path / "x.tar", [("a.png", png(10))])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [shade(image) for image in as_sources(path)] == [10]


def test_webdataset_itself_gives_rows_and_pairs(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    members = [("1.png", png(10)), ("1.cls", b"1"), ("2.png", png(20)), ("2.cls", b"0")]
    url = str(tar(tmp_path / "x.tar", members))
    plain = webdataset.WebDataset(url, shardshuffle=False)
    assert read(plain) == [(10, "1"), (20, "0")]
    assert read(plain.decode("pil")) == [(10, 1), (20, 0)]
    pairs = webdataset.WebDataset(url, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    assert read(pairs) == [(10, 1), (20, 0)]
    assert next(iter(carried(url, labelled=True).entries)).label == "1"

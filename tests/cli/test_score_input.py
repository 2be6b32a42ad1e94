"""What `interneg score` takes for its images."""

import pytest
from PIL import Image

from openood_interneg.cli.score_input import open_input
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b 2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / name)
    return tmp_path


def paths(source):
    found, count = open_input(str(source))
    found = list(found)
    assert count == len(found)
    return found


def test_folders_images_and_urls(folder):
    assert paths("in") == ["in/a.png", "in/b 2.png"]
    assert paths("in/a.png") == ["in/a.png"]
    assert paths("https://host/a.png") == ["https://host/a.png"]


def test_lists_of_paths_and_image_lists(folder):
    (folder / "paths.txt").write_text("in/a.png\nin/b 2.png\n")
    assert paths("paths.txt") == ["in/a.png", "in/b 2.png"]
    (folder / "in" / "list.txt").write_text("a.png 0\nb 2.png -1\n")
    assert paths("in/list.txt") == ["in/a.png", "in/b 2.png"]
    (folder / "photo 3").write_bytes((folder / "in" / "a.png").read_bytes())
    (folder / "odd.txt").write_text("photo 3\n")
    assert paths("odd.txt") == ["photo 3"]


def test_tables(folder):
    (folder / "in" / "t.csv").write_text("id,file\n1,a.png\n2,b 2.png\n")
    assert paths("in/t.csv") == ["in/a.png", "in/b 2.png"]
    (folder / "bad.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ImageError, match="no column with the images' paths"):
        open_input("bad.csv")
    with pytest.raises(DetectorError, match=r"no folder, image or list at none\.csv"):
        open_input("none.csv")


def test_archives_are_read_as_they_come(folder):
    import tarfile

    with tarfile.open("x.tar", "w") as archive:
        archive.add("in/a.png", "a.png")
    found, count = open_input("x.tar")
    assert count is None and [image.name for image in found] == ["x.tar/a.png"]
    with pytest.raises(ImageError, match=r"none\.tar"):
        next(open_input("none.tar")[0])

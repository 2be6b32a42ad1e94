"""Images at URLs are opened where the user allowed it, and nowhere else."""

import zipfile

import pytest
from carriers import files, png, shade

from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.image_sources import as_sources, carried
from openood_interneg.data.image_urls import is_url, shown_url, url_schemes
from openood_interneg.data.images import ImageError
from openood_interneg.settings import MissingPackageError, SettingsError


def test_what_is_a_url():
    for url in ("https://a/b.png", "s3://x/y", "zip://a.png::b.zip", "zip::https://a/b.zip"):
        assert is_url(url)
    for path in ("a/b.png", "/a//b.png", "C:\\a.png", "a::b", "http:/a", b"https://a", 3):
        assert not is_url(path)
    assert url_schemes("zip://a.png::simplecache::HTTPS://a/b.zip") == [
        "zip",
        "simplecache",
        "https",
    ]
    assert url_schemes("zip://a.png::/local/b.zip") == ["zip"]
    assert shown_url("https://me:secret@host/a.png?token=1") == "https://host/a.png"


@pytest.mark.parametrize("allowed", [(), ("zip",), ("http",)])
def test_nothing_is_fetched_unasked(allowed, monkeypatch):
    pytest.importorskip("fsspec")

    def reached(*args, **more):
        raise AssertionError("something was opened")

    monkeypatch.setattr("fsspec.open", reached)
    for url in ("https://host/a.png?key=secret", "zip://a.png::https://host/a.zip"):
        with pytest.raises(ImageError, match="nothing is fetched unasked.*urls=.*'https'") as said:
            as_image(url, ImageLimits(urls=allowed))
        assert "secret" not in str(said.value)


def test_allowed_schemes_are_read_within_the_limits(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://shades/10.png", "wb") as file:
        file.write(png(10))
    memory = ImageLimits(urls=("memory",))
    assert carried("memory://shades/10.png").entries == [("memory://shades/10.png", None)]
    assert shade("memory://shades/10.png", memory) == 10
    with pytest.raises(ImageError, match="more than 9 bytes"):
        as_image("memory://shades/10.png", ImageLimits(urls=("memory",), max_bytes=9))
    with pytest.raises(ImageError, match=r"memory://shades/none\.png"):
        as_image("memory://shades/none.png", memory)

    (path,) = files(tmp_path, [20])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "in/20.png")
    url = f"zip://in/20.png::{tmp_path}/a.zip"
    assert shade(url, ImageLimits(urls=["zip"])) == 20
    (tmp_path / "a.csv").write_text(f"url,label\n{url},cat\n")
    assert as_sources(tmp_path / "a.csv") == [url]


def test_a_file_system_that_lacks_says_so(monkeypatch):
    pytest.importorskip("fsspec")
    with pytest.raises(ImageError, match="nonsense://a.png: "):
        as_image("nonsense://a.png", ImageLimits(urls=("nonsense",)))

    def lacks(*args, **more):
        raise ImportError("HTTPFileSystem requires aiohttp")

    monkeypatch.setattr("fsspec.open", lacks)
    with pytest.raises(ImageError, match=r"requires aiohttp; .*'openood-interneg\[url\]'"):
        as_image("https://host/a.png", ImageLimits(urls=("https",)))


def test_settings_of_urls(monkeypatch):
    for urls in ("https", [3], ["https://"], 5):
        with pytest.raises(SettingsError, match="it takes schemes"):
            ImageLimits(urls=urls)
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'openood-interneg\[url\]'"):
        ImageLimits(urls=("https",))
    assert ImageLimits().kept().get("urls") is None

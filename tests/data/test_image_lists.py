"""Image lists: what is read and what is refused."""

import codecs

import numpy as np
import pytest

from openood_interneg.data.image_lists import BenchmarkError, read_image_list


def test_labels_of_a_list_are_integers(tmp_path):
    (tmp_path / "l.txt").write_text("a b.png 3\n\nc.png -1\n")
    images = read_image_list(tmp_path / "l.txt", tmp_path, "x")
    assert images.labels.dtype == np.int64 and images.labels.tolist() == [3, -1]
    assert images.paths[0] == "a b.png"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png", "line 1: expected 'path label'"),
        ("a.png 0\nb.png x", "line 2: expected 'path label'"),
        ("0", "line 1: the path is missing"),
    ],
)
def test_image_list_mistakes(tmp_path, lines, message):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(BenchmarkError, match=message):
        read_image_list(tmp_path / "list.txt", tmp_path, "x")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_is_no_part_of_the_first_image(tmp_path, newline):
    text = newline.join(["a.png 0", "", "b c.png 1", "d\u2028e.png 1", ""])
    (tmp_path / "list.txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    images = read_image_list(tmp_path / "list.txt", tmp_path, "x")
    assert images.paths == ("a.png", "b c.png", "d\u2028e.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png 0\n".encode("utf-16"), "is UTF-16 text"),
        ("a.png 0\n".encode("utf-16-le"), "NUL character"),
        (b"a.png 0\n\xff.png 1\n", "line 2: not UTF-8"),
        (b"a.png " + b"9" * 30, "line 1: expected 'path label'"),
        ("a.png ٣\n".encode(), "line 1: expected 'path label'"),
        (b"a.png 1_0\n", "line 1: expected 'path label'"),
        (b"\n \n", "is empty"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        read_image_list(tmp_path / "list.txt", tmp_path, "x")

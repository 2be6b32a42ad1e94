"""Damaged tables, archives and lists, and arbitrary values: images, or a message."""

import contextlib
import io
import json
import os
import tarfile
import warnings

import numpy as np
import pytest
import torch
from carriers import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openood_interneg.data.any_image import as_image
from openood_interneg.data.image_sources import carried
from openood_interneg.settings import InternegError

pytestmark = pytest.mark.slow

MORE = int(os.environ.get("INTERNEG_FUZZ", "1"))  # times as many examples
many = settings(max_examples=200 * MORE, deadline=None, suppress_health_check=list(HealthCheck))


def archive() -> bytes:
    label = json.dumps({"label": "cat"}).encode()
    members = (("1.png", png(1)), ("1.cls", b"1"), ("2.png", png(2)), ("2.json", label))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet_table() -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": "2.png"}]}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(rows | {"label": [0, 1]}), buffer)
    return buffer.getvalue()


GOOD = {
    "x.tar": archive,
    "x.parquet": parquet_table,
    "x.csv": lambda: b'path,label,x\na.png,cat,1\n"b,c.png",dog,2\n',
    "x.tsv": lambda: b"path\tlabel\na.png\tcat\n",
    "x.txt": lambda: b"a.png 1\nb.png -1\n",
    "x.heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
}
PIECES = [b"\0", b"\n", b",", b'"', b"\xff\xfe", b"9" * 20, b"{", b";", b""]


def tried(source) -> None:
    """All images of a source are read; only errors for people are let through."""
    with contextlib.suppress(InternegError):
        for entry in carried(source, labelled=True).entries:
            with contextlib.suppress(InternegError):
                assert as_image(entry.image).mode == "RGB"


@many
@pytest.mark.parametrize("name", GOOD)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(PIECES)), min_size=1, max_size=6))
def test_damaged_files(name, edits, tmp_path_factory):
    content = GOOD[name]()
    for place, piece in edits:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + 1 :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried(path)


SCALARS = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.sampled_from([np.zeros((1, 4, 4, 3), np.uint8), np.zeros(3), torch.zeros(2, 3, 4, 4)]),
)
KEYS = st.sampled_from(["image", "data", "label", "jpg", "bytes", "path", "star"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=6,
)


@many
@given(VALUES)
def test_any_value(value):
    tried(value)

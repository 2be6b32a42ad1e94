"""CSV, TSV and Parquet files with the paths of images and their labels."""

import json

import pytest
from carriers import files, png, read

from openood_interneg.data.image_sources import carried
from openood_interneg.data.images import ImageError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,label\nx/10.png,cat\nx/20.png,dog\n"),
        ("a.csv", "\ufeffpath,label\r\nx/10.png,cat\r\nx/20.png,dog\r\n"),
        ("a.csv", 'id,Class,File_Name\n1,"cat",x/10.png\n2,dog,"x/20.png"\n'),
        ("a.csv", "filename;category\nx/10.png;cat\nx/20.png;dog\n"),
        ("a.tsv", "image\tlabel\tclass_name\nx/10.png\t1\tcat\nx/20.png\t7\tdog\n"),
    ],
)
def test_a_table_names_its_images_and_classes(name, text, tmp_path):
    files(tmp_path / "x", [10, 20])
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name) == [(10, "cat"), (20, "dog")]


def test_labels_are_the_texts_of_the_cells_and_may_be_absent(tmp_path):
    (path, _) = files(tmp_path / "x", [10, 20])
    (tmp_path / "a.csv").write_text(f"path,label\n{path},007\nx/20.png,NA\n")
    assert read(tmp_path / "a.csv") == [(10, "007"), (20, "NA")]
    (tmp_path / "b.csv").write_text("path\nx/10.png\n")
    assert read(str(tmp_path / "b.csv")) == [(10, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no table"),
        ("x/10.png,cat\n", r"no column with the images' paths, only \['x/10.png', 'cat'\]"),
        ("path,label\n", "has no row"),
        ("path,label\nx/10.png,cat\n,dog\n", "row 2: there is no path"),
        ("path,label\na.png,cat,more\n\n\nb,c,d,e,f\n", "is no table"),
    ],
)
def test_a_table_without_images_says_where(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ImageError, match=rf"a\.csv.*{message}"):
        carried(tmp_path / "a.csv")


def test_a_missing_file_and_other_text():
    with pytest.raises(ImageError, match=r"none\.csv"):
        carried("none.csv")


def test_parquet_holds_paths_or_the_images_themselves(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files(tmp_path / "x", [10])
    paths = pa.table({"path": ["x/10.png", "x/10.png"], "label": ["cat", "dog"], "more": [1, 2]})
    parquet.write_table(paths, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(10, "cat"), (10, "dog")]

    images = [{"bytes": png(20), "path": None}, {"bytes": png(30), "path": "30.png"}]
    feature = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [1, 0]})
    meta = {"huggingface": json.dumps({"info": {"features": feature}})}
    parquet.write_table(table.replace_schema_metadata(meta), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == [(20, 1), (30, 0)]
    assert carried(tmp_path / "b.parquet", labelled=True).names == {0: ("dog",), 1: ("cat",)}


def test_parquet_that_is_none(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(ImageError, match="cannot be read as Parquet"):
        carried(tmp_path / "a.parquet")
    with pytest.raises(ImageError, match="is no file"):
        carried(tmp_path / "none.parquet")
    parquet.write_table(pa.table({"path": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(ImageError, match="row 2: there is no path"):
        carried(tmp_path / "b.parquet")
    parquet.write_table(pa.table({"path": ["a"], "label": [0.5]}), tmp_path / "c.parquet")
    with pytest.raises(ImageError, match=r"row 1: the label is 0\.5"):
        carried(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match="pip install pyarrow"):
        carried(tmp_path / "a.parquet")

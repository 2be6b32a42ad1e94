"""Tables of images: CSV, TSV and Parquet files and data frames, with a path and a label column."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openood_interneg.data.image_entries import (
    IMAGE_KEYS,
    LABEL_KEYS,
    Carried,
    Entry,
    is_undecoded,
    label_key,
    plain_label,
)
from openood_interneg.data.image_urls import is_url
from openood_interneg.data.images import ImageError
from openood_interneg.settings import first_line, require_package, shown
from openood_interneg.vlm.text_files import read_text

if TYPE_CHECKING:
    import pandas as pd

TABLES = frozenset({".csv", ".tsv", ".parquet"})
PATH_KEYS = ("path", "file", "filename", "file_name", "filepath", "image_path", "url", *IMAGE_KEYS)


def read_image_table(path: Path) -> Carried:
    """Images and labels of a CSV, TSV or Parquet file.

    The image column is the first of `PATH_KEYS` that is there, the label column, if any, that of
    `LABEL_KEYS`; neither case nor other columns matter. Paths are relative to the table's folder.
    Parquet files may hold the images themselves, as those of Hugging Face do.

    Raises:
        ImageError: no such file or column, no row, a cell without a path.
        MissingPackageError: Parquet without pyarrow.
    """
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path)
    text = read_text(path, ImageError)
    header = text.partition("\n")[0]
    cut = "\t" if path.suffix.lower() == ".tsv" else ","
    if ";" in header and cut not in header:  # where the comma is the decimal sign
        cut = ";"
    import pandas as pd

    try:
        # As text: a label 007 or a class called NA is what it says.
        frame = pd.read_csv(
            io.StringIO(text), sep=cut, dtype=str, keep_default_na=False, index_col=False
        )
    except ValueError as error:  # pandas' own derive from it
        raise ImageError(f"{path} is no table: {first_line(error)}") from None
    return Carried(frame_entries(frame, str(path), path.parent))


def frame_entries(frame: pd.DataFrame, name: str, folder: Path | None = None) -> list[Entry]:
    """Images and labels of a table in memory.

    Args:
        frame: one row per image.
        name: what messages call it.
        folder: what paths are relative to; None leaves them as they are.

    Raises:
        ImageError: as for `read_image_table`.
    """
    columns = [str(column) for column in frame.columns]
    key, label = _columns(columns, name)
    if not len(frame):
        raise ImageError(f"{name} has no row, and so no image")
    images = frame.iloc[:, columns.index(key)].tolist()
    labels = [None] * len(images)
    if label is not None:
        labels = [plain_label(value) for value in frame.iloc[:, columns.index(label)].tolist()]
    return list(_rows(images, labels, name, folder))


def _columns(columns: list[str], name: str) -> tuple[str, str | None]:
    lower = {column.strip().lower(): column for column in reversed(columns)}
    key = next((lower[known] for known in PATH_KEYS if known in lower), None)
    if key is None:
        raise ImageError(
            f"{name} has no column with the images' paths, only {shown(columns)}; its first line "
            f"names the columns, such as path,label (also read: {', '.join(PATH_KEYS)}; "
            f"{', '.join(LABEL_KEYS)})"
        )
    return key, label_key(column for column in columns if column != key)


def _rows(images: list[Any], labels: list[Any], name: str, folder: Path | None) -> Iterator[Entry]:
    for row, (image, label) in enumerate(zip(images, labels, strict=True), 1):
        if isinstance(image, str):
            image = image.strip()
        if image is None or image == "" or (isinstance(image, float) and image != image):
            raise ImageError(f"{name}, row {row}: there is no path")
        if isinstance(image, str) and folder is not None and not is_url(image):
            image = folder / image
        if is_undecoded(image) and image["bytes"] is None and folder is not None:
            image = folder / str(image["path"])
        if isinstance(label, float):
            if label != label or label != int(label):
                raise ImageError(f"{name}, row {row}: the label is {label}; give a name or number")
            label = int(label)
        yield Entry(image, label.strip() if isinstance(label, str) else label)


def _of_parquet(path: Path) -> Carried:
    require_package("pyarrow", "pyarrow", f"the Parquet file {path}")
    if not path.is_file():
        raise ImageError(f"{path} is no file")
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            key, label = _columns(schema.names, str(path))
            table = file.read(columns=[key] if label is None else [key, label])
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
    frame = pd.DataFrame({name: table.column(name).to_pylist() for name in table.column_names})
    names = None if label is None else _class_label(schema.metadata, label)
    return Carried(frame_entries(frame, str(path), path.parent), names)


def _class_label(metadata: Mapping[bytes, bytes] | None, label: str) -> dict[int, Any] | None:
    """Class names that `datasets` has written into the schema."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        names = feature["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return {number: (str(name),) for number, name in enumerate(names)}

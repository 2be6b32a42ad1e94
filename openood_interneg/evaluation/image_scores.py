"""Scores with names: a table with one row per image of each stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.images import printable
from openood_interneg.data.store import atomic_path
from openood_interneg.evaluation.protocols import Run
from openood_interneg.evaluation.results import csv_frame
from openood_interneg.evaluation.rows import Results
from openood_interneg.settings import MissingPackageError, require_package

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("method", "seed", "stream", "file", "set", "label", "prediction", "score", "p")
ID_SET = "id"  # no OOD set can have this name


def image_frame(results: Results, benchmark: Benchmark) -> pd.DataFrame:
    """The score of every image by name.

    Args:
        results: of an evaluation of the benchmark.
        benchmark: that was evaluated.

    Returns:
        One row per method, seed, stream (the OOD set that the ID images were scored with) and
        image, ID images first: `file`; `set`, "id" or the OOD set's name; `label`, the true class
        of an ID image, else missing; `prediction`, the nearest class; `score`, float64, high = ID;
        `p`, float64, NaN where the method has no p-values.
    """
    import pandas as pd

    parts = list(_frames(results, benchmark))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def write_image_scores(folder: Path, results: Results, benchmark: Benchmark) -> str | None:
    """Writes scores.csv and, where pyarrow is installed, scores.parquet, atomically.

    Texts in the CSV are as `csv_cell` writes them, in the Parquet file as they are.

    Args:
        folder: is there.
        results: of an evaluation of the benchmark.
        benchmark: that was evaluated.

    Returns:
        Why there is no Parquet file; None where there is one. One of an earlier run does not stay.
    """
    missing = None
    try:
        require_package("pyarrow", "'openood-interneg[parquet]'", "scores.parquet")
    except MissingPackageError as error:
        missing = str(error)
    parquet = folder / "scores.parquet"
    with ExitStack() as stack:
        table = stack.enter_context(atomic_path(folder / "scores.csv"))
        file = stack.enter_context(table.open("w", encoding="utf-8", newline=""))
        if not missing:
            import pyarrow as pa
            from pyarrow.parquet import ParquetWriter

            kinds = {"seed": pa.int64(), "score": pa.float64(), "p": pa.float64()}
            schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
            temporary = stack.enter_context(atomic_path(parquet))
            writer = stack.enter_context(ParquetWriter(temporary, schema))
        file.write(",".join(COLUMNS) + "\n")
        for part in _frames(results, benchmark):  # of one stream: a table of all may be large
            csv_frame(part).to_csv(file, index=False, header=False, lineterminator="\n")
            if not missing:
                writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))
    if missing:
        parquet.unlink(missing_ok=True)
    return missing


def _frames(results: Results, benchmark: Benchmark) -> Iterator[pd.DataFrame]:
    files = {images.name: _files(images) for images in benchmark.ood}
    id_files, classes = _files(benchmark.test), np.array(benchmark.class_names, dtype=object)
    labels = classes[benchmark.test.labels].tolist()
    for (method, seed, stream), run in results.scores.items():
        names = id_files + files[stream]
        yield _frame(run, classes, names, labels, stream).assign(method=method, seed=seed)[
            list(COLUMNS)
        ]


def _frame(
    run: Run, classes: np.ndarray, files: list[str], labels: list[str], stream: str
) -> pd.DataFrame:
    import pandas as pd

    ood = len(run.ood_score)
    nearest = np.concatenate([run.id_pred, run.ood_pred]).astype(np.int64)
    p = np.full(len(files), np.nan)
    if run.id_p is not None and run.ood_p is not None:
        p = np.concatenate([run.id_p, run.ood_p]).astype(np.float64)
    return pd.DataFrame(
        {
            "stream": stream,
            "file": files,
            "set": [ID_SET] * len(labels) + [stream] * ood,
            "label": labels + [None] * ood,
            "prediction": classes[nearest],
            "score": np.concatenate([run.id_score, run.ood_score]).astype(np.float64),
            "p": p,
        }
    )


def _files(images: ImageList) -> list[str]:
    return [printable(images.file(i)) for i in range(len(images))]

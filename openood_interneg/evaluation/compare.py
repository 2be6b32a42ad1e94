"""What differs between the results of two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openood_interneg.settings import SettingsError


def read_result(path: Path) -> Any:
    """A JSON file.

    Raises:
        SettingsError: absent, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error


RUN, ROWS, REPORT = "run.json", "results.json", "report.json"


def read_run(path: Path) -> Any:
    """What there is to compare of a run: its figures, and what they depend on.

    Args:
        path: the folder that `eval` or `reproduce` wrote, or a JSON file of it; with `run.json` or
            `results.json` of an evaluation the other one is read, too.

    Raises:
        SettingsError: nothing to compare there, or a file that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name in (RUN, ROWS):
        names = [name for name in (RUN, ROWS) if (folder / name).is_file()]
        if names and (path.is_dir() or path.name in names):
            return {Path(name).stem: read_result(folder / name) for name in names}
    if path.is_dir():
        if (path / REPORT).is_file():
            return read_result(path / REPORT)
        raise SettingsError(
            f"there is no {ROWS}, {RUN} or {REPORT} in {path}; give the folder that eval or "
            "reproduce wrote (--out)"
        )
    return read_result(path)


def differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places at which two JSON values differ: (path, value in a, value in b).

    What only one of them has is given as None on the other side. Lists whose items have
    coordinates (rows of a table) are matched by those, not by position.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(a, list) and isinstance(b, list):
        left, right = _keyed(a), _keyed(b)
        for key in [*left, *(k for k in right if k not in left)]:
            yield from differences(left.get(key), right.get(key), f"{where}[{key}]")
    elif a != b:
        yield where, a, b


_NAMES = ("benchmark", "backbone", "part", "point", "method", "protocol", "seed", "dataset")


def _keyed(items: list[Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for i, item in enumerate(items):
        key: Any = i
        if isinstance(item, Mapping):
            if "row" in item and "column" in item:
                labels = [*item["row"], item["column"], item.get("metric", "")]
                key = " / ".join(str(label) for label in labels if label != "")
            else:
                labels = [str(item[name]) for name in _NAMES if item.get(name) not in (None, "")]
                key = " / ".join(labels) or i
        out[key if key not in out else f"{key} #{i}"] = item
    return out

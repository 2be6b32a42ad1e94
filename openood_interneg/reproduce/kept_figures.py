"""Figures on disk: one whose inputs did not change is read from there, and not drawn anew.

Inputs are the values that a figure shows, the code that draws it, and the versions of the plotting
library and of what it computes with. Nothing here imports that library unless a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openood_interneg.data.digests import bytes_digest, digest
from openood_interneg.data.store import atomic_path
from openood_interneg.reproduce import panels, plots, style
from openood_interneg.reproduce.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURRENT, _FILE_INK = "currentColor", "#1f2328"  # of the text of a page; of a file of its own
_HEADER = '<?xml version="1.0" encoding="utf-8"?>\n'


@dataclass(frozen=True)
class Drawn:
    """A figure in both forms.

    Attributes:
        name: of its files.
        title: printed over it.
        alt: what it shows, for readers of text.
        svg: its ink is the page's text colour.
        png: file's bytes.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes


class FigureFiles:
    """The figures of one experiment as SVG and PNG, and a record of what each was drawn from.

    Args:
        folder: of the files.
        experiment: its id; the record is `<id>.json`.
    """

    def __init__(self, folder: Path, experiment: str):
        self.folder, self._record = folder, folder / f"{experiment}.json"
        self._before = read_sealed(self._record) or {}
        self._now: dict[str, dict[str, str]] = {}

    def figure(
        self, name: str, title: str, alt: str, draw: Callable[..., Figure], *inputs: Any
    ) -> Drawn:
        """A figure, drawn unless its files are those of the same inputs.

        Args:
            name: of its files, and what ids in the SVG begin with.
            title: printed over it.
            alt: what it shows.
            draw: function of `panels`; called with `inputs`.
            inputs: numbers, texts, arrays, and sequences and mappings of them.
        """
        drawn_from = digest([drawing_code(), name, draw.__name__, _plain(inputs)])
        files = [self.folder / f"{name}.{ending}" for ending in ("svg", "png")]
        found = self._kept(name, drawn_from, files)
        if found is None:
            with style.page_style():
                figure = draw(*inputs)
                svg = style.as_svg(figure, name).replace(style.INK, _FILE_INK)
                found = [(_HEADER + svg).encode(), style.as_png(figure)]
            for path, data in zip(files, found, strict=True):
                with atomic_path(path) as temporary:
                    temporary.write_bytes(data)
        self._now[name] = _entry(drawn_from, found)
        svg = found[0].decode().removeprefix(_HEADER).replace(_FILE_INK, _CURRENT)
        return Drawn(name, title, alt, svg, found[1])

    def _kept(self, name: str, drawn_from: str, files: Sequence[Path]) -> list[bytes] | None:
        before = self._before.get(name)
        if not isinstance(before, Mapping) or before.get("inputs") != drawn_from:
            return None
        try:
            found = [path.read_bytes() for path in files]
        except OSError:
            return None
        return found if _entry(drawn_from, found) == before else None  # else edited or damaged

    def write_record(self) -> None:
        """Writes what the figures asked for were drawn from, where that is not known yet."""
        if self._now != self._before:
            write_sealed(self._record, self._now)


@cache
def drawing_code() -> str:
    """Digest of the code that draws, and of the versions of what it draws with."""
    code = [bytes_digest(Path(str(m.__file__)).read_bytes()) for m in (panels, plots, style)]
    return digest([code, *map(metadata.version, ("matplotlib", "numpy", "scikit-learn"))])


def _entry(drawn_from: str, data: Sequence[bytes]) -> dict[str, str]:
    return {
        "inputs": drawn_from,
        "svg": bytes_digest(data[0]),
        "png": bytes_digest(data[1]),
    }


def _plain(value: Any) -> Any:
    """What a digest can be taken of; mappings keep their order, which is that of the lines."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), bytes_digest(value.tobytes())]
    if isinstance(value, Mapping):
        return {"pairs": [[key, _plain(own)] for key, own in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_plain(own) for own in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a figure is drawn of plain values, not of {type(value).__name__}")

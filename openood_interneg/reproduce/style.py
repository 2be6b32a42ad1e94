"""How figures look: colours, line styles, and their form as SVG and PNG.

No global style is set. Colours are those of Okabe and Ito, which people with colour-blind eyes
tell apart, and a method has the same one in every figure; lines also differ by marker or dash.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE = "#D55E00", "#CC79A7"  # of the eight, yellow is too faint on white
GREY = "#8c8c8c"
ID_COLOUR, OOD_COLOUR = BLUE, ORANGE

# The ink of text and axes; pages replace it by the colour of their own text.
INK = "#1f2329"

METHOD_COLOURS = {
    "interneg": VERMILION,
    "interneg_negatives_only": PURPLE,
    "adaneg": BLUE,
    "neglabel": GREEN,
    "csp": ORANGE,
    "mcm": SKY,
    "clipscope": PURPLE,
    "eoe": INK,
    "energy": GREY,
    "mahalanobis": GREY,
    "cover": SKY,
    "tanl": INK,
    "rationeg": INK,
}
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"
CYCLE = (VERMILION, BLUE, GREEN, ORANGE, SKY, PURPLE, GREY, INK)


def method_colour(method: str) -> str:
    """The colour of a method, the same in every figure and every run."""
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    return CYCLE[int(hashlib.blake2b(method.encode()).hexdigest(), 16) % len(CYCLE)]


def line_styles(labels: Sequence[str], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Colour, dash and marker of each line of an axis; no two lines share colour and dash."""
    taken: set[tuple[str, str]] = set()
    out = []
    for i, label in enumerate(labels):
        own = [_DASHES[(i + k) % 4] for k in range(4)]
        dash = next((d for d in own if (colours[label], d) not in taken), own[0])
        taken.add((colours[label], dash))
        out.append(
            {
                "color": colours[label],
                "linestyle": dash,
                "marker": _MARKERS[i % len(_MARKERS)],
                "markersize": 4,
                "linewidth": 1.6,
                "label": label,
            }
        )
    return out


def styled(
    lines: Mapping[str, T], colours: Mapping[str, str]
) -> Iterator[tuple[T, dict[str, Any]]]:
    """What each line of an axis shows, with its style; label -> what it shows."""
    return zip(lines.values(), line_styles(list(lines), colours), strict=True)


_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8,
    "legend.handlelength": 3,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "interneg",
    "axes.formatter.useoffset": False,
}


@contextmanager
def page_style() -> Iterator[None]:
    """`with page_style():` - the pages' style inside the block, and nothing of it after."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # names are checked when set
        yield


def new_figure(
    columns: int = 1, rows: int = 1, width: float = 3.4, height: float = 2.6
) -> tuple[Figure, np.ndarray]:
    """A figure with its axes, (rows, columns) array; to be drawn inside `page_style()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend_below(figure: Figure, ax: Axes) -> None:
    """Puts the legend of an axis below the figure."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def as_svg(figure: Figure, prefix: str) -> str:
    """SVG text to put into a page: no date, ids of its own, ink in the page's text colour."""
    data = io.StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = data.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    ids = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))
    names = {name: f"{prefix}-{i}" for i, name in enumerate(ids)}
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{names[m[1]]}"', text)
    text = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names.get(m[1], m[1])})", text)
    return re.sub(r'href="#([^"]+)"', lambda m: f'href="#{names.get(m[1], m[1])}"', text)


def as_png(figure: Figure) -> bytes:
    """PNG on white, without a date."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return data.getvalue()

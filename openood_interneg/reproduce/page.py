"""Reports as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openood_interneg.reproduce.sections import NOT_PAPER, Section
from openood_interneg.reproduce.tables import CONVENTION, arrow, number, signed


def html(sections: Sequence[Section]) -> str:
    """One self-contained page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("openood_interneg", "reproduce"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(number=number, signed=signed, arrow=arrow, share=_share)
    return environment.get_template("report.html").render(
        sections=sections, not_paper=NOT_PAPER, convention=CONVENTION, json=_pretty
    )


def _share(value: float) -> str:
    """A score or probability; small ones keep a digit that counts."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.0e}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)

"""Reports as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openood_interneg.reproduce.sections import NOT_PAPER, Section
from openood_interneg.reproduce.tables import CONVENTION, arrow, number, signed

if TYPE_CHECKING:
    from jinja2 import Template


def html(sections: Sequence[Section]) -> str:
    """One self-contained page."""
    return template("report.html").render(
        sections=sections, not_paper=NOT_PAPER, convention=CONVENTION, json=_pretty
    )


def template(name: str, folder: str = "reproduce") -> Template:
    """A page's template, which may use the reports' style and macros.

    Args:
        name: of the file.
        folder: of this package that has it.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    folders = dict.fromkeys((folder, "reproduce"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("openood_interneg", place) for place in folders]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(number=number, signed=signed, arrow=arrow, share=_share)
    return environment.get_template(name)


def _share(value: float) -> str:
    """A score or probability; small ones keep a digit that counts."""
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)

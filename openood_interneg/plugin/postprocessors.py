"""Every method of this package as a postprocessor for OpenOOD.

Each row of the table of methods has a class (`InterNegPostprocessor`, `NegLabelPostprocessor`,
...), made here; what they do is in `detector_postprocessor`.
"""

from __future__ import annotations

from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import get_method, list_methods
from openood_interneg.plugin.detector_postprocessor import BasePostprocessor, DetectorPostprocessor


def class_name(method: Method) -> str:
    """`InterNegPostprocessor` for interneg, `InterNegNegativesOnlyPostprocessor`, ..."""
    stem = method.detector.__name__
    rest = method.name.removeprefix(stem.lower())
    if rest == method.name:
        stem = ""
    return stem + "".join(part.title() for part in rest.split("_")) + "Postprocessor"


def postprocessor_class(name: str) -> type[DetectorPostprocessor]:
    """The postprocessor class of a method, also of one that was registered later.

    Raises:
        SettingsError: unknown name.
    """
    method = get_method(name)
    known = globals().get(class_name(method))
    if known is not None and known.method is method:
        return known
    made = type(
        class_name(method),
        (DetectorPostprocessor,),
        {
            "__module__": __name__,
            "__doc__": f"{method.title} ({method.venue} {method.year}, {method.paper}).",
            "method": method,
        },
    )
    globals()[made.__name__] = made  # where pickle looks for it
    return made


def all_postprocessors() -> dict[str, type[DetectorPostprocessor]]:
    """Method name -> postprocessor class, for all methods of the table."""
    return {method.name: postprocessor_class(method.name) for method in list_methods()}


all_postprocessors()


__all__ = [
    "BasePostprocessor",
    "DetectorPostprocessor",
    "all_postprocessors",
    "class_name",
    "postprocessor_class",
    *(cls.__name__ for cls in all_postprocessors().values()),
]

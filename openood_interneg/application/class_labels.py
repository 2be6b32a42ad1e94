"""Which class a label means: a name, a number, or a number with names of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openood_interneg.data.class_folders import loose
from openood_interneg.data.classnames import imagenet_ids
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import shown

MOST_NAMED = 10


def places_of(
    labels: Sequence[Any],
    names: Sequence[str],
    numbered: Mapping[int, tuple[str, ...]] | None = None,
) -> np.ndarray:
    """Label numbers (n,) int64: places among the class names.

    Args:
        labels: names or numbers of classes. Names are compared exactly, then without case, spaces,
            underscores and slashes; a text of digits is a number unless classes are called so.
        names: of the classes.
        numbered: names of the numbers, where the source has them; otherwise numbers are places.

    Raises:
        DetectorError: naming all labels that are not among the names.
    """
    known = _Names(names, numbered)
    found: dict[Any, int | None] = {}
    for label in labels:
        key = label if isinstance(label, (str, int, np.integer)) else shown(label)
        if key not in found:
            found[key] = known.place(label)
    unknown = [key for key, place in found.items() if place is None]
    if unknown:
        some = ", ".join(known.told(key) for key in unknown[:MOST_NAMED])
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise DetectorError(
            f"{len(unknown)} of the {len(found)} classes of the ID images are not among the class "
            f"names: {some}{more}; name the classes as the images' source does, or give (image, "
            "class name) pairs of the classes that you have"
        )
    return np.array([found[label] for label in labels], dtype=np.int64)


class _Names:
    def __init__(self, names: Sequence[str], numbered: Mapping[int, tuple[str, ...]] | None):
        self.names, self.numbered = names, numbered
        self.exactly = {name: place for place, name in enumerate(names)}
        self.loosely: dict[str, int | None] = {}
        for place, name in enumerate(names):  # None: two names are alike but for what is ignored
            self.loosely[loose(name)] = None if loose(name) in self.loosely else place
        self.digits = any(name.isdecimal() for name in names)
        ids = [name for own in (numbered or {}).values() for name in own]
        self.exactly = imagenet_ids(ids, names) | self.exactly

    def place(self, label: Any) -> int | None:
        if isinstance(label, str):
            place = self._by_name(label)
            numeric = place is None and label.strip().isdecimal() and not self.digits
            return self._by_number(int(label)) if numeric else place
        if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
            return self._by_number(int(label))
        return None

    def _by_name(self, name: str) -> int | None:
        return self.exactly.get(name, self.loosely.get(loose(name)))

    def _by_number(self, number: int) -> int | None:
        if self.numbered is None:
            return number if 0 <= number < len(self.names) else None
        own = map(self._by_name, self.numbered.get(number, ()))
        return next((place for place in own if place is not None), None)

    def told(self, label: Any) -> str:
        """A label that is not among the names, and what may have been meant."""
        if isinstance(label, str):
            near = difflib.get_close_matches(label, self.names, n=1)
            return f"{shown(label)} (did you mean {near[0]!r}?)" if near else shown(label)
        if self.numbered is None:
            return f"class number {shown(label)} (they are 0..{len(self.names) - 1})"
        return f"class {label} ({', '.join(self.numbered.get(label, ())) or 'without a name'})"

"""Whether the classes of a network are those of the images that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openood_interneg.negatives.words import normalize_text
from openood_interneg.plugin.loaders import LoaderError, listed_labels
from openood_interneg.plugin.network import ClipHead, ClipZeroShot, known_class_names
from openood_interneg.settings import shown


class ClassesError(LoaderError):
    """A network whose classes are not those of the benchmark."""


def check_classes(
    net: ClipHead,
    dataset: str | None,
    num_classes: int | None = None,
    given_names: Sequence[str] | None = None,
) -> None:
    """Compares a network's class names with a benchmark's: names, order and number.

    Case, surrounding spaces and `_` for a space make no difference.

    Args:
        net: the network.
        dataset: the benchmark.
        num_classes: its number of classes, where its names are not known.
        given_names: names of its classes that the user has given for this network.

    Raises:
        ClassesError: naming both.
    """
    ours = net.class_names if isinstance(net, ClipZeroShot) else None
    compare_names(ours, net.num_classes, dataset, num_classes, given_names)


def compare_names(
    ours: Sequence[str] | None,
    number: int,
    dataset: str | None,
    num_classes: int | None = None,
    given_names: Sequence[str] | None = None,
) -> None:
    """`check_classes` of a network that is not loaded yet: its class names and their number."""
    theirs = known_class_names(dataset) if given_names is None else tuple(given_names)
    count = num_classes if theirs is None or given_names is not None else len(theirs)
    if count is not None and count != number:
        raise ClassesError(
            f"the network has {number} classes{_some(ours)}, the benchmark '{dataset}' "
            f"has {count}{_some(theirs)}; {_remedy(dataset)}"
        )
    if theirs is None or ours is None:
        return
    plain = [list(map(normalize_text, names)) for names in (ours, theirs)]
    at = next((i for i, pair in enumerate(zip(*plain, strict=True)) if pair[0] != pair[1]), None)
    if at is None:
        return
    what = "are those of" if sorted(plain[0]) == sorted(plain[1]) else "are not those of"
    order = " in another order" if what == "are those of" else ""
    raise ClassesError(
        f"the network's class names {what} the benchmark '{dataset}'{order}: class {at} is "
        f"{shown(ours[at])} for the network and {shown(theirs[at])} in the benchmark; "
        f"{_remedy(dataset)}. If the network's words mean the same classes in this order, say so: "
        f"openood_interneg.plugin.name_class_names({dataset!r}, net.class_names)"
    )


def check_loaders(
    net: ClipZeroShot,
    loaders: Mapping[str, Any] | None,
    dataset: str | None,
    given_names: Sequence[str] | None = None,
) -> None:
    """`check_classes` for OpenOOD's loaders, whose data sets have the name of their benchmark.

    Every label of an ID loader must be that of a class, too.

    Raises:
        ClassesError: names, order, number or labels differ.
    """
    for split, loader in (loaders or {}).items():
        data: Any = getattr(loader, "dataset", None)
        name = dataset
        if name is None and isinstance(getattr(data, "name", None), str):
            name = data.name.removesuffix(f"_{split}")
        check_classes(net, name, getattr(data, "num_classes", None), given_names)
        labels = listed_labels(data)
        if labels is None or len(labels) == 0:
            continue
        low, high = int(min(labels)), int(max(labels))
        if low < 0 or high >= net.num_classes:
            raise ClassesError(
                f"the ID {split} images have labels from {low} to {high}; with "
                f"{net.num_classes} class names{_some(net.class_names)} they must be "
                f"0..{net.num_classes - 1}"
            )


def _some(names: Sequence[str] | None) -> str:
    if names is None:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _remedy(dataset: str | None) -> str:
    return f"load the network with the benchmark's: ClipZeroShot.load(..., class_names={dataset!r})"

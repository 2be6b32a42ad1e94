"""Class names of the in-distribution data sets, in the order of their labels."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from openood_interneg.settings import InternegError, shown
from openood_interneg.vlm.prompts import fill
from openood_interneg.vlm.text_files import numbered_lines, read_text, text_value

KNOWN_CLASS_NAMES = ("cifar10", "cifar100", "imagenet", "imagenet200")
_WORDNET_ID = re.compile(r"n\d{8}")


class ClassNameError(InternegError, ValueError):
    """A source of class names that cannot be used; the message names the remedy."""


def class_names(
    source: str | Path | Sequence[str], *, allow_duplicates: bool = False
) -> tuple[str, ...]:
    """Return the class names of a data set; entry k is the name of label k.

    Args:
        source: the names themselves, the name of a known set, or the path of a UTF-8 text file with
            one name a line. Known are ``cifar10``; ``cifar100`` (the fine labels, underscores
            written as spaces); ``imagenet`` (OpenAI's cleaned names of the 1000 classes, from
            open_clip, in which "missile" and "sunglasses" stand twice); ``imagenet200`` (OpenOOD
            v1.5's subset, the 200 classes of ImageNet-R, under the same names). In a file, lines
            that start with ``#`` are comments and names are used as they are written, underscores
            included.
        allow_duplicates: accept a file in which a name occurs twice. Names that differ only in
            case or spacing count as the same, because CLIP's tokenizer maps them to one text.

    Raises:
        ClassNameError: unknown name and no such file, a file that is unreadable, not UTF-8 or
            empty, an empty line between names, or duplicates that were not allowed.
        ImportError: ``imagenet`` or ``imagenet200`` without open_clip installed.
    """
    if not isinstance(source, (str, Path)):
        return check_class_names(source, allow_duplicates=allow_duplicates)
    if source in ("cifar10", "cifar100"):
        return tuple(_packaged(f"{source}.txt"))
    if source == "imagenet":
        return _imagenet()
    if source == "imagenet200":
        imagenet = _imagenet()
        return tuple(imagenet[int(label)] for label in _packaged("imagenet200.txt"))

    if isinstance(source, str) and not os.path.exists(os.path.expanduser(source)):
        raise ClassNameError(
            f"{source!r} is no known set of class names ({', '.join(KNOWN_CLASS_NAMES)}) and no "
            "file: give one of these names, or the path of a text file with one name a line"
        )
    return _from_file(Path(os.path.expanduser(source)), allow_duplicates)


def _from_file(path: Path, allow_duplicates: bool) -> tuple[str, ...]:
    lines = list(numbered_lines(read_text(path, ClassNameError)))
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise ClassNameError(f"{path}: no class names in it; write one name a line")

    for number, name in lines:
        if not name:
            # Skipping it could hide a lost name, and then every later label would be off by one.
            raise ClassNameError(
                f"{path}, line {number}: empty; the names' order is the labels' order, so write "
                "the missing name or delete the line"
            )
    return check_class_names(
        [name for _, name in lines],
        source=str(path),
        lines=[number for number, _ in lines],
        allow_duplicates=allow_duplicates,
    )


def check_class_names(
    names: Iterable[str],
    *,
    source: str = "",
    lines: Sequence[int] | None = None,
    allow_duplicates: bool = False,
) -> tuple[str, ...]:
    """Checks that every class has a name of its own, and returns the names.

    Names from YAML, from a file and from Python all pass this check. WordNet ids as names give a
    warning.

    Args:
        names: C names, in label order.
        source: file or setting that they come from, for messages.
        lines: numbers of the lines in it, for messages.
        allow_duplicates: let two classes have one name (ImageNet's own list has two such pairs,
            and is let through as it is).

    Raises:
        ClassNameError: no name, one that is empty or no text, or two that are the same.
    """
    if isinstance(names, str):
        raise ClassNameError(f"class names are a sequence of texts, not the text {shown(names)}")
    names, where = tuple(names), f"{source}: " if source else ""
    if not names:
        raise ClassNameError(f"{where}there are no class names; give at least one")
    for place, name in enumerate(names):
        text_value(name, f"{where}class name {place}", ClassNameError)
    first: dict[str, int] = {}
    firsts = [first.setdefault(_plain(name), place) for place, name in enumerate(names)]
    pairs = [(a, b) for b, a in enumerate(firsts) if a != b]
    if pairs and not allow_duplicates and not _is_imagenet(names):
        raise ClassNameError(
            f"{where}the same name stands for two classes: {_listed(pairs, names, lines)}; CLIP "
            "cannot tell them apart, so rename one of each"
        )
    ids = [name for name in names if _WORDNET_ID.fullmatch(name.strip())]
    if ids:
        warnings.warn(
            f"{where}{len(ids)} of {len(names)} class names are WordNet ids ({', '.join(ids[:3])}"
            f"{', ...' if len(ids) > 3 else ''}), which CLIP cannot read: give the classes' usual "
            "words, a text file with one name a line in the order of the ids (--classes), or "
            "ImageNet's, the known sets 'imagenet' and 'imagenet200'",
            stacklevel=2,
        )
    return names


def imagenet_ids(ids: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Labels of ImageNet's WordNet ids, whose sorted order is that of its known class names.

    Args:
        ids: of the classes that a folder or a data set has.
        names: class names.

    Returns:
        The label of each id; empty unless the ids are WordNet's, the names one of ImageNet's known
        sets, and as many.
    """
    ids, names = sorted(set(ids)), tuple(names)
    if len(ids) != len(names) or not all(_WORDNET_ID.fullmatch(one) for one in ids):
        return {}
    if names not in (class_names("imagenet"), class_names("imagenet200")):
        return {}
    return {one: label for label, one in enumerate(ids)}


def check_tokens(
    names: Sequence[str], tokenizer: Callable[[Sequence[str]], Any], templates: Sequence[str]
) -> None:
    """Checks that different class names are different texts to the model, too.

    A tokenizer cuts long texts off (CLIP's after 77 tokens).

    Args:
        names: C names that `check_class_names` let through.
        tokenizer: texts -> (n, context) int64 tokens.
        templates: the prompts, in which the tokenizer sees the names.

    Raises:
        ClassNameError: two names with the same tokens in every prompt.
    """
    distinct = {_plain(name): place for place, name in reversed(list(enumerate(names)))}
    pairs = _alike(tokenizer, names, sorted(distinct.values()), templates)
    if pairs:
        raise ClassNameError(
            f"CLIP sees no difference between class names: {_listed(pairs, names)}; its tokenizer "
            "drops or cuts off what makes them differ, so shorten or rename them"
        )


def _plain(name: str) -> str:
    """Names that differ only in case or spacing are one text to CLIP's tokenizer."""
    return " ".join(name.casefold().split())


def _listed(
    pairs: list[tuple[int, int]], names: Sequence[str], lines: Sequence[int] | None = None
) -> str:
    numbers, what = (range(len(names)), "class names") if lines is None else (lines, "lines")
    some = ", ".join(
        f"{shown(names[b])} ({what} {numbers[a]} and {numbers[b]})" for a, b in pairs[:5]
    )
    more = " and more" if len(pairs) > 5 else ""
    return some + more


def _alike(
    tokenizer: Callable[[Sequence[str]], Any],
    names: Sequence[str],
    places: list[int],
    templates: Sequence[str],
) -> list[tuple[int, int]]:
    """Pairs of places whose names have the same tokens in all templates, each with the first."""
    groups = [places]
    for template in templates:
        split = []
        for group in groups:
            texts = [fill(template, names[place]) for place in group]
            by_tokens: dict[tuple, list[int]] = {}
            for place, row in zip(group, tokenizer(texts).tolist(), strict=True):
                by_tokens.setdefault(tuple(row), []).append(place)
            split += [same for same in by_tokens.values() if len(same) > 1]
        groups = split
        if not groups:
            break
    return [(group[0], other) for group in groups for other in group[1:]]


def _is_imagenet(names: tuple[str, ...]) -> bool:
    try:
        return len(names) == 1000 and names == _imagenet()
    except ImportError:
        return False


def _packaged(file_name: str) -> list[str]:
    data = resources.files("openood_interneg.data") / "class_names" / file_name
    return [line for _, line in numbered_lines(data.read_text(encoding="utf-8"))]


def _imagenet() -> tuple[str, ...]:
    try:
        import open_clip  # here, because it loads torch and torchvision
    except ImportError as missing:
        raise ImportError(
            "ImageNet's class names come from open_clip: pip install open_clip_torch"
        ) from missing
    return tuple(open_clip.IMAGENET_CLASSNAMES)

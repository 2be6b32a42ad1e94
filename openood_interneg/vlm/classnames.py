"""Class names of the in-distribution data sets, in the order of their labels."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from openood_interneg.settings import InternegError
from openood_interneg.vlm.text_files import numbered_lines, read_text

KNOWN_CLASS_NAMES = ("cifar10", "cifar100", "imagenet", "imagenet200")


class ClassNameError(InternegError, ValueError):
    """A source of class names that cannot be used; the message names the remedy."""


def class_names(source: str | Path, *, allow_duplicates: bool = False) -> tuple[str, ...]:
    """Return the class names of a data set; entry k is the name of label k.

    Args:
        source: a known name or the path of a UTF-8 text file with one name a line. Known are
            ``cifar10``; ``cifar100`` (the fine labels, underscores written as spaces);
            ``imagenet`` (OpenAI's cleaned names of the 1000 classes, from open_clip, in which
            "missile" and "sunglasses" stand twice); ``imagenet200`` (OpenOOD v1.5's subset, the
            200 classes of ImageNet-R, under the same names). In a file, lines that start with
            ``#`` are comments and names are used as they are written, underscores included.
        allow_duplicates: accept a file in which a name occurs twice. Names that differ only in
            case or spacing count as the same, because CLIP's tokenizer maps them to one text.

    Raises:
        ClassNameError: unknown name and no such file, a file that is unreadable, not UTF-8 or
            empty, an empty line between names, or duplicates that were not allowed.
        ImportError: ``imagenet`` or ``imagenet200`` without open_clip installed.
    """
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

    first_line: dict[str, int] = {}
    duplicates = []
    for number, name in lines:
        if not name:
            # Skipping it could hide a lost name, and then every later label would be off by one.
            raise ClassNameError(
                f"{path}, line {number}: empty; the names' order is the labels' order, so write "
                "the missing name or delete the line"
            )
        first = first_line.setdefault(" ".join(name.casefold().split()), number)
        if first != number:
            duplicates.append(f"{name!r} (lines {first} and {number})")
    if duplicates and not allow_duplicates:
        raise ClassNameError(
            f"{path}: the same name stands for two classes: {', '.join(duplicates[:5])}"
            f"{' and more' if len(duplicates) > 5 else ''}; CLIP cannot tell them apart, so rename "
            "one of each, or pass allow_duplicates=True"
        )
    return tuple(name for _, name in lines)


def _packaged(file_name: str) -> list[str]:
    data = resources.files("openood_interneg.vlm").joinpath("data", file_name)
    return [line for _, line in numbered_lines(data.read_text(encoding="utf-8"))]


def _imagenet() -> tuple[str, ...]:
    try:
        import open_clip  # here, because it loads torch and torchvision
    except ImportError as missing:
        raise ImportError(
            "ImageNet's class names come from open_clip: pip install open_clip_torch"
        ) from missing
    return tuple(open_clip.IMAGENET_CLASSNAMES)

"""What `interneg score` reads: whatever carries images on disk, or paths on standard input."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from openood_interneg.data.image_sources import LISTS, as_sources, images_in
from openood_interneg.data.image_urls import is_url
from openood_interneg.detectors.base import DetectorError
from openood_interneg.vlm.text_files import MAX_BYTES

_LISTED = re.compile(r".*\S\s-?[0-9]{1,9}\s*")  # a line of an image list: path label
LONGEST_LINE = 32 * 2**10  # bytes of a path


def open_input(source: str) -> tuple[Iterator[Any], int | None]:
    """Images of the stream and how many there are; None where that is not known beforehand.

    Args:
        source: a folder, an image, its URL, a table or an archive as for `carried`, a text file
            with one path a line or an image list, or - for paths on standard input.

    Raises:
        DetectorError: nothing there, or an empty list.
        ImageError: an empty folder or table.
    """
    if source == "-":
        return _lines(sys.stdin.buffer), None
    path = Path(source).expanduser()
    if is_url(source) or path.is_dir():
        found = as_sources(source)
        return iter([str(image) for image in found]), len(found)
    if path.suffix.lower() == ".tar":
        return images_in(source), None
    if not path.is_file():
        raise DetectorError(f"there is no folder, image or list at {path}")
    if path.suffix.lower() in LISTS - {".txt"}:
        images = [str(i) if isinstance(i, Path) else i for i in as_sources(path)]
        return iter(images), len(images)
    from PIL import Image

    Image.init()
    if path.suffix.lower() in Image.EXTENSION:
        return iter([str(path)]), 1
    if path.stat().st_size > MAX_BYTES:
        raise DetectorError(f"{path} is too large for a list of paths; pipe it in (-) instead")
    with open(path, "rb") as file:
        head = file.read(4096)
        _refuse_utf16(head)
        if b"\0" in head:
            raise DetectorError(f"{path} is neither an image nor a text file of paths")
        file.seek(0)
        paths = list(_lines(file))
    if paths and all(_LISTED.fullmatch(line) for line in paths) and not os.path.exists(paths[0]):
        images = [str(image) for image in as_sources(path)]
        return iter(images), len(images)
    if not paths:
        raise DetectorError(f"the list {path} is empty")
    return iter(paths), len(paths)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Paths, one a line; a byte order mark is no part of the first.

    Raises:
        DetectorError: a line longer than any path.
    """
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise DetectorError(
                f"line {number} of the paths is longer than {LONGEST_LINE} bytes, and no path is; "
                "give one path a line"
            )
        if number == 1:
            _refuse_utf16(line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if line := line.rstrip(b"\r\n"):
            yield os.fsdecode(line)


def _refuse_utf16(head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DetectorError("the list of paths is UTF-16 text; save it as UTF-8")

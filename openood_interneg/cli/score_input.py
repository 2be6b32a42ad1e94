"""What `interneg score` reads: a folder, an image, a list of paths, or paths on standard input."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from openood_interneg.data.any_image import image_files
from openood_interneg.detectors.base import DetectorError
from openood_interneg.vlm.text_files import MAX_BYTES

LONGEST_LINE = 32 * 2**10  # bytes of a path


def open_input(source: str) -> tuple[Iterator[str], int | None]:
    """Paths of the stream and how many there are; None for standard input.

    Raises:
        DetectorError: nothing there, or an empty folder or list.
    """
    if source == "-":
        return _lines(sys.stdin.buffer), None
    path = Path(source).expanduser()
    if path.is_dir():
        paths = [str(file) for file in image_files(path)]
        if not paths:
            raise DetectorError(f"there is no file in the folder {path}")
        return iter(paths), len(paths)
    if not path.is_file():
        raise DetectorError(f"there is no folder, image or list at {path}")
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

"""Images in tar archives as webdataset lays them out: `KEY.jpg` beside `KEY.cls` or `KEY.json`."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openood_interneg.data.image_entries import (
    Deferred,
    Entry,
    ends_like_image,
    label_key,
    plain_label,
)
from openood_interneg.data.images import ImageError, printable
from openood_interneg.settings import first_line

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL_BYTES = 64 * 2**10
_MOST_SHARDS = 100_000


def shards(pattern: str) -> list[Path]:
    """The files of `data-{000..012}.tar`, or the one file.

    Raises:
        ImageError: a range that goes down, or is very long.
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [Path(pattern).expanduser()]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_SHARDS:
        raise ImageError(f"the range {found[0]} in {pattern} is empty or has over {_MOST_SHARDS}")
    width = len(found[1]) if found[1].startswith("0") else 0
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [p for n in range(first, last + 1) for p in shards(f"{start}{n:0{width}d}{end}")]


def tar_entries(path: Path) -> Iterator[Entry]:
    """The images of a tar archive, in its order; their pixels are read when they are needed.

    Files whose names are alike up to the first dot of the last part are one sample. Its label is
    what is in `.cls` or `.txt`, or the label of its `.json`. Nothing is unpacked.

    Raises:
        ImageError: no such file, a compressed or a damaged archive, a label that cannot be read,
            no image, a sample with several images.
    """
    count = 0
    try:
        with tarfile.open(path, "r:") as archive:
            sample: dict[str, tarfile.TarInfo] = {}
            current = None
            for member in archive:
                key, _, ending = member.name.rpartition("/")[2].partition(".")
                if not member.isreg() or member.issparse() or not key or not ending:
                    continue  # folders, hidden files
                key = member.name[: len(member.name) - len(ending)]
                if key != current:
                    for entry in _of_sample(path, archive, sample):
                        count += 1
                        yield entry
                    sample, current = {}, key
                sample[ending.lower()] = member
            for entry in _of_sample(path, archive, sample):
                count += 1
                yield entry
    except (tarfile.TarError, OSError) as error:
        raise ImageError(
            f"{path} cannot be read as a tar archive: {first_line(error)}; a compressed one "
            "(.tar.gz) is to be unpacked first"
        ) from None
    if not count:
        raise ImageError(f"there is no image in the archive {path}")


def _of_sample(
    path: Path, archive: tarfile.TarFile, sample: dict[str, tarfile.TarInfo]
) -> Iterator[Entry]:
    several = [ending for ending in sample if ends_like_image(ending)]
    images = [ending for ending in several if "." not in ending] or several
    if not images:
        return
    if len(images) > 1:
        raise ImageError(
            f"{path}: {printable(sample[images[0]].name)} has other images beside it "
            f"({', '.join(images[1:])}); which one is meant?"
        )
    member = sample[images[0]]
    yield Entry(_deferred(path, member), _label(path, archive, sample))


def _deferred(path: Path, member: tarfile.TarInfo) -> Deferred:
    name, begin, size = f"{path}/{printable(member.name)}", member.offset_data, member.size

    def read(max_bytes: int) -> bytes:
        if size > max_bytes:
            raise ImageError(f"{name} has {size} bytes; the limit is {max_bytes}")
        with open(path, "rb") as file:
            file.seek(begin)
            return file.read(size)

    return Deferred(read, name, size)


def _label(path: Path, archive: tarfile.TarFile, sample: dict[str, tarfile.TarInfo]) -> Any:
    ending = next((e for e in ("cls", "cls.txt", "label.txt", "json", "txt") if e in sample), None)
    if ending is None:
        return None
    member = sample[ending]
    where = f"{path}/{printable(member.name)}"
    file = archive.extractfile(member)
    if member.size > _LABEL_BYTES or file is None:
        raise ImageError(f"{where} has {member.size} bytes and is no label")
    try:
        text = file.read().decode("utf-8").strip()
        if ending != "json":
            return text
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where} cannot be read: {first_line(error)}") from None
    key = label_key(found) if isinstance(found, dict) else None
    return None if key is None else plain_label(found[key])

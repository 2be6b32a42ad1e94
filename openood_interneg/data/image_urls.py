"""Images at URLs, through fsspec, and only where the user has allowed it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from openood_interneg.data.images import ImageError
from openood_interneg.settings import SettingsError, first_line, require_package

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(::|://)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")


def is_url(source: Any) -> bool:
    """Whether a text is a URL, or a chain of them (`zip://a.png::https://...`), and no path."""
    return isinstance(source, str) and "://" in source and _URL.match(source) is not None


def url_schemes(url: str) -> list[str]:
    """What a URL would have opened, without the local file at the end of a chain."""
    *links, last = url.split("::")
    schemes = [link.partition("://")[0].lower() for link in links]
    return schemes + ([last.partition("://")[0].lower()] if "://" in last else [])


def shown_url(url: str) -> str:
    """A URL for a message, without passwords and signatures."""
    return re.sub(r"//[^/@\s]*@", "//", url.partition("?")[0])


def check_schemes(schemes: Any) -> tuple[str, ...]:
    """The schemes that a user allows.

    Raises:
        SettingsError: no sequence of names, such as ("https", "s3").
        MissingPackageError: fsspec is not installed.
    """
    several = isinstance(schemes, (list, tuple, set, frozenset))
    if not several or not all(isinstance(s, str) and _NAME.fullmatch(s) for s in schemes):
        raise SettingsError(f"urls is {schemes!r}; it takes schemes, such as ('https', 's3')")
    if schemes:
        require_package("fsspec", "'openood-interneg[url]'", "an image at a URL")
    return tuple(scheme.lower() for scheme in schemes)


def read_url(url: str, allowed: Sequence[str], max_bytes: int) -> bytes:
    """The bytes at a URL; at most one more than `max_bytes` are fetched.

    Args:
        url: as fsspec takes it.
        allowed: schemes that may be opened.
        max_bytes: the limit, which the caller checks.

    Raises:
        ImageError: a scheme that is not allowed, or whatever goes wrong on the way.
    """
    refused = [scheme for scheme in url_schemes(url) if scheme not in allowed]
    name = shown_url(url)
    if refused:
        wanted = ", ".join(repr(s) for s in dict.fromkeys((*allowed, *url_schemes(url))))
        raise ImageError(
            f"cannot read the image {name}: nothing is fetched unasked; allow it with "
            f"limits=ImageLimits(urls=[{wanted}]) (interneg score --urls)"
        )
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read(max_bytes + 1)
    except Exception as error:  # each file system has errors of its own
        remedy = ""
        if isinstance(error, ImportError):
            remedy = "; https comes with pip install 'openood-interneg[url]'"
        raise ImageError(f"cannot read the image {name}: {first_line(error)}{remedy}") from error
    return data

"""Results on disk that carry the digest of their content.

What a killed program, a full disk or an editor has changed is told from what was computed: it is
never believed, and made anew.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openood_interneg.data.digests import bytes_digest, digest
from openood_interneg.data.store import StoreError, write_text
from openood_interneg.vlm.text_files import read_bytes, read_json

SEAL = "seal"


def write_sealed(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a mapping as JSON with its digest, atomically; returns it as JSON gives it back."""
    plain = json.loads(json.dumps(dict(content)))
    write_text(path, json.dumps(plain | {SEAL: digest(plain)}, indent=1))
    return plain


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Content of a file of `write_sealed`; None with a warning where it is not what was written,
    and None without one where there is no file."""
    if not path.exists():
        return None
    try:
        content = read_json(path, StoreError)
    except StoreError as error:
        _warn_of(str(error))
        return None
    if not isinstance(content, dict) or content.pop(SEAL, None) != digest(content):
        _warn_of(f"{path} is damaged or was edited: its content does not match its digest")
        return None
    return content


def file_digest(path: Path) -> str | None:
    """Hex digest of a file's bytes; None where it cannot be read."""
    try:
        data = read_bytes(path, StoreError, limit=2**32)
    except StoreError:
        return None
    return bytes_digest(data)


def _warn_of(why: str) -> None:
    warnings.warn(f"{why}. It is not used", stacklevel=3)

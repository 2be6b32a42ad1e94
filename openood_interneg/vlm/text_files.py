"""The only readers of text, YAML and JSON files, trusted or not.

A file is read whole, after it was found to be a regular file of a bounded size; nothing in it
executes code, and what it expands to in memory is bounded as well.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from openood_interneg.settings import InternegError, shown

MAX_BYTES = 256 * 2**20  # of a text, after unpacking
MAX_NODES = 100_000  # of a YAML or JSON document, with every alias written out
MAX_DEPTH = 50


def read_bytes(
    path: Path, error: type[InternegError], *, limit: int = MAX_BYTES, unpack: bool = True
) -> bytes:
    """Content of a regular file, unpacked where its name ends in ``.gz``.

    Args:
        path: the file.
        error: what is raised, so that each caller's users see its own kind of error.
        limit: largest number of bytes, unpacked.
        unpack: False leaves an archive as it is.

    Raises:
        error: missing, a folder, a pipe or a device, unreadable, too large, a broken archive.
    """
    try:
        # Non-blocking: opening a FIFO that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as refusal:
        raise error(_why(path, refusal)) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise error(f"{path} is {kind}; give the path of a regular file")
    try:
        with os.fdopen(handle, "rb") as file:
            data = file.read(limit + 1)
            if unpack and len(data) <= limit and path.suffix.lower() == ".gz":
                data = _unpacked(data, limit)
    except (OSError, zlib.error, EOFError) as refusal:
        raise error(_why(path, refusal)) from None
    if len(data) > limit:
        raise error(f"{path} holds more than {limit / 2**20:g} MiB; is it the right file?")
    return data


def read_text(path: Path, error: type[InternegError], *, limit: int = MAX_BYTES) -> str:
    """Text of a UTF-8 file, plain or gzipped (``.gz``), without a byte order mark.

    Raises:
        error: as `read_bytes`; also for text that is not UTF-8. The message names the file, the
            line where there is one, and the remedy.
    """
    data = read_bytes(path, error, limit=limit)
    remedy = "save the file as UTF-8 text"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise error(f"{path} is UTF-16 text; {remedy}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        raise error(f"{path}, line {line}: not UTF-8; {remedy}") from None
    # UTF-16 without a byte order mark is valid UTF-8 full of NULs.
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(
            f"{path}, line {line}: holds a NUL character, so it is not UTF-8 text; {remedy}"
        )
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, stripped line) for every line that is not a ``#`` comment."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        line = line.strip()
        if not line.startswith("#"):
            yield number, line


def read_yaml(path: Path, error: type[InternegError]) -> dict[str, Any]:
    """Mapping in a YAML file; empty for an empty file.

    Raises:
        error: as `read_text`; no valid YAML, not a mapping, a duplicate key, aliases that
            expand to a huge document, brackets nested too deeply.
    """
    return parse_yaml(read_text(path, error, limit=16 * 2**20), str(path), error)


def parse_yaml(text: str, source: str, error: type[InternegError]) -> dict[str, Any]:
    """`read_yaml` of a text; `source` names it in messages."""
    block = parse_yaml_value(text, source, error)
    if block is None:
        return {}
    if not isinstance(block, dict):
        raise error(f"{source} must map names to values, and is {shown(block)}")
    return block


def parse_yaml_value(text: str, source: str, error: type[InternegError]) -> Any:
    """Any YAML value in a text, under the limits of `read_yaml`."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _bound(node)
        return loader.construct_document(node)
    except yaml.YAMLError as failure:
        raise error(f"{source} is not valid YAML: {failure}") from None
    except RecursionError:
        raise error(f"{source}: nested more than {MAX_DEPTH} levels deep; write it flat") from None
    except ValueError as failure:  # a whole number of thousands of digits, an impossible date
        raise error(f"{source} holds a value that cannot be read: {failure}") from None
    finally:
        if loader is not None:
            loader.dispose()


def text_value(value: Any, what: str, error: type[InternegError]) -> str:
    """Checks that a name or a path from a YAML file is a string, not what YAML made of it.

    Args:
        value: as the file gave it.
        what: the name of the value, for the message.

    Raises:
        error: it is no text, or an empty one.
    """
    if not isinstance(value, str):
        raise error(
            f"{what} is {shown(value)}, no text: YAML reads yes, no, on and off as truth values, "
            "null and ~ as nothing, 01 and 2024-05-01 as numbers and dates. Put it in quotes, as "
            f'in "{_as_written(value)}"'
        )
    if not value.strip():
        raise error(f"{what} is {value!r}; it must be a non-empty text")
    return value


def _as_written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "null" if value is None else shown(value) if isinstance(value, (int, float)) else "text"


def read_json(path: Path, error: type[InternegError]) -> Any:
    """Value in a JSON file.

    Raises:
        error: as `read_text`; no valid JSON, or nested too deeply.
    """
    text = read_text(path, error)
    try:
        return json.loads(text)
    except RecursionError:
        raise error(f"{path}: nested too deeply to be read") from None
    except ValueError as failure:
        raise error(f"{path} is not valid JSON: {failure}") from None


def read_json_object(path: Path, error: type[InternegError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        error: as `read_json`, or another value.
    """
    content = read_json(path, error)
    if not isinstance(content, dict):
        raise error(f"{path} must hold one JSON object")
    return content


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; a duplicate key is an error, where PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shown(key.value)} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _bound(root: yaml.Node) -> None:
    """Refuses a document that is too large once every alias is written out, or too deep."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH or id(node) in open_nodes:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            total = 1
            if isinstance(node, yaml.SequenceNode):
                total += sum(size(child, depth + 1) for child in node.value)
            elif isinstance(node, yaml.MappingNode):
                total += sum(size(child, depth + 1) for pair in node.value for child in pair)
            open_nodes.discard(id(node))
            sizes[id(node)] = total
        if sizes[id(node)] > MAX_NODES:
            raise yaml.YAMLError(f"it expands to more than {MAX_NODES} values")
        return sizes[id(node)]

    size(root, 0)


def _unpacked(data: bytes, limit: int) -> bytes:
    """The content of a gzip file, at most limit + 1 bytes of it."""
    out = bytearray()
    while data:
        stream = zlib.decompressobj(wbits=31)
        out += stream.decompress(data, limit + 1 - len(out))
        if len(out) > limit:
            break
        if not stream.eof:
            raise EOFError("it ends too early")
        data = stream.unused_data.lstrip(b"\0")
    return bytes(out)


def _why(path: Path, refusal: Exception) -> str:
    if isinstance(refusal, FileNotFoundError):
        return f"{path}: no such file; check the path"
    if isinstance(refusal, (EOFError, zlib.error)):
        return f"{path}: not a sound gzip file ({refusal}); copy it again"
    reason = getattr(refusal, "strerror", None) or refusal
    return f"{path}: cannot be read ({reason}); check the path and its permissions"

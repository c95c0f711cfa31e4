"""The shared checks: names, extensions, sizes, nesting and duplicate keys. Pure functions, no I/O.

Every operation, the command line and migration go through these, so a document that one storage takes can move to any
other. No message quotes the text that it refuses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

from accountstore.errors import DecodeError, ExtensionError, LocationError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = (
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_PATH",
    "MAX_SEGMENT",
    "RESERVED_PREFIX",
    "Kind",
    "check_file_name",
    "check_folder",
    "check_json",
    "check_kind",
    "check_msgpack",
    "check_path",
    "check_size",
    "check_storage",
    "kind_of",
    "near_miss",
)

MAX_BYTES = 256 * 1024
"""Bytes of one document, unless the configuration says otherwise."""
MAX_DEPTH = 32
"""Objects and arrays inside one another."""
MAX_SEGMENT = 255
"""UTF-8 bytes of a storage name, a folder segment or a file name."""
MAX_PATH = 1024
"""UTF-8 bytes of folder and file name together."""
RESERVED_PREFIX = ".accountstore-"
"""File names of the library's own passing files."""

Kind: TypeAlias = Literal["account", "multi"]
"""Which document a file name promises: `*.account` or `*.multi.account`."""

_SINGLE = ".account"
_MULTI = ".multi.account"

# Separators, drives and schemes, globs, version suffixes; control characters; line separators; lone surrogates.
_FORBIDDEN = "[\\\\/:*?\\[\\]{}#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"


def check_storage(name: str, /) -> None:
    """Raise `LocationError` unless `name` can name a storage."""
    _check_segment(name, "storage")


def check_folder(folder: str, /) -> None:
    """Raise `LocationError` unless `folder` is empty (the root) or allowed segments joined by `/`."""
    if folder:
        for segment in folder.split("/"):
            _check_segment(segment, "folder")
            if segment.endswith(_SINGLE):
                raise LocationError("folder: a segment ends in .account and would stand in a document's place")


def check_file_name(name: str, /) -> None:
    """Raise `LocationError` unless `name` is one allowed segment. The extension is `check_kind`'s concern."""
    _check_segment(name, "file name")


def check_path(folder: str, name: str, /) -> None:
    """Raise `LocationError` when folder and file name together are longer than `MAX_PATH` bytes."""
    if len(folder) + len(name) >= MAX_PATH // 4 and len(f"{folder}/{name}".encode()) > MAX_PATH:
        raise LocationError(f"folder and file name: longer than {MAX_PATH} bytes")


def _check_segment(text: str, what: str, /) -> None:
    if not text:
        raise LocationError(f"{what}: a segment is empty")
    if text in {".", ".."}:
        raise LocationError(f"{what}: a segment is '.' or '..'")
    if re.search(_FORBIDDEN, text):
        raise LocationError(f"{what}: has a separator, control, wildcard, drive or version-suffix character")
    if text.startswith(RESERVED_PREFIX):
        raise LocationError(f"{what}: begins with the reserved {RESERVED_PREFIX!r}")
    if text.isascii():
        length = len(text)
    else:
        from unicodedata import is_normalized

        if not is_normalized("NFC", text):
            raise LocationError(f"{what}: is not in Unicode normal form C")
        length = len(text.encode())
    if length > MAX_SEGMENT:
        raise LocationError(f"{what}: a segment is longer than {MAX_SEGMENT} bytes")


def kind_of(name: str, /) -> Kind:
    """The kind of document that a file name promises.

    The extension is compared by case and needs a name before it.

    Raises:
        ExtensionError: the name ends in neither `.account` nor `.multi.account`.
    """
    if name.endswith(_MULTI) and len(name) > len(_MULTI):
        return "multi"
    if name.endswith(_SINGLE) and len(name) > len(_SINGLE) and name != _MULTI:
        return "account"
    raise ExtensionError("the file name must end in .account or .multi.account, with a name before it")


def check_kind(name: str, kind: Kind, /) -> None:
    """Raise `ExtensionError` unless the file name promises a document of this kind."""
    if kind_of(name) != kind:
        raise ExtensionError(
            "the file name must end in .multi.account, with a name before it"
            if kind == "multi"
            else "a *.multi.account file holds several accounts: this call takes one account, in *.account"
        )


def check_size(size: int, limit: int, /) -> None:
    """Raise `TooLargeError` when a document has more than `limit` bytes."""
    if size > limit:
        raise TooLargeError(f"the document has {size} bytes, more than the {limit} allowed")


def near_miss(word: str, known: Collection[str], /) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


# --- documents as bytes --------------------------------------------------------------------------------------------

_JSON_MARKS = r'\\.|["\[\]{}]'


def check_json(data: bytes, /) -> None:
    """Raise `DecodeError` unless `data` is UTF-8 JSON, at most `MAX_DEPTH` deep, with no key twice in an object."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise DecodeError("is not UTF-8") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_json_depth(text)
    import json

    try:
        # Numbers stay text: converting them is the decoder's work.
        json.loads(text, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except json.JSONDecodeError:
        raise DecodeError("is not valid JSON") from None


def _check_json_depth(text: str, /) -> None:
    depth = 0
    in_string = False
    for mark in re.finditer(_JSON_MARKS, text, re.DOTALL):
        match mark[0]:
            case '"':
                in_string = not in_string
            case "{" | "[" if not in_string:
                depth += 1
                if depth > MAX_DEPTH:
                    raise DecodeError(f"is nested deeper than {MAX_DEPTH} levels")
            case "}" | "]" if not in_string:
                depth -= 1
            case _:
                pass


def _distinct(pairs: list[tuple[str, object]], /) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise DecodeError("an object has the same key twice")


# By head byte: bytes of content of nil, booleans, numbers and fixed extensions; bytes of length of binary, extensions
# and text.
_MSGPACK_SCALARS = {0xC0: 0, 0xC2: 0, 0xC3: 0} | dict(
    zip(range(0xCA, 0xD9), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17), strict=True)
)
_MSGPACK_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


_MSGPACK_EXTENSIONS = frozenset({0xC7, 0xC8, 0xC9})


def _msgpack_header(data: bytes, at: int, /) -> tuple[int, int, int]:
    """Where the content of the object at `at` starts, its bytes, and how many objects it holds.

    That number is -1 for a scalar and has bit 30 set for a map (MessagePack specification, "Formats").
    """
    head = data[at]
    if head <= 0x7F or head >= 0xE0:
        return at + 1, 0, -1
    if head <= 0x8F:
        return at + 1, 0, (head & 0x0F) | 1 << 30
    if head <= 0x9F:
        return at + 1, 0, head & 0x0F
    if head <= 0xBF:
        return at + 1, head & 0x1F, -1
    if head in _MSGPACK_SCALARS:
        return at + 1, _MSGPACK_SCALARS[head], -1
    if head in _MSGPACK_STRINGS:
        start = at + 1 + _MSGPACK_STRINGS[head]
        return start, int.from_bytes(data[at + 1 : start]) + (head in _MSGPACK_EXTENSIONS), -1
    if head == 0xC1:
        raise DecodeError("is not valid MessagePack")
    start = at + (3 if head in {0xDC, 0xDE} else 5)
    # More members than bytes cannot be: the cap keeps the map mark apart from the count.
    count = min(int.from_bytes(data[at + 1 : start]), len(data))
    return start, 0, count | (1 << 30 if head >= 0xDE else 0)


def check_msgpack(data: bytes, /) -> None:
    """Raise `DecodeError` unless `data` is MessagePack, at most `MAX_DEPTH` deep, with no key twice in a map."""
    _check_msgpack_shape(data)
    from msgspec import MsgspecError
    from msgspec.msgpack import decode

    try:
        decode(data)
    except (MsgspecError, UnicodeDecodeError):
        raise DecodeError("is not valid MessagePack") from None


def _check_msgpack_shape(data: bytes, /) -> None:
    # One entry an open container: objects still to come, and for a map the keys seen.
    stack: list[tuple[int, set[bytes] | None]] = []
    at = 0
    while at < len(data):
        start, size, count = _msgpack_header(data, at)
        if stack:
            left, keys = stack.pop()
            if keys is not None and left % 2 == 0:
                key = data[start : start + size] if size else data[at:start]
                if key in keys:
                    raise DecodeError("an object has the same key twice")
                keys.add(key)
            stack.append((left - 1, keys))
        at = start + size
        if count >= 0:
            if len(stack) >= MAX_DEPTH:
                raise DecodeError(f"is nested deeper than {MAX_DEPTH} levels")
            members, is_map = count & ~(1 << 30), bool(count >> 30)
            stack.append((members * 2, set()) if is_map else (members, None))
        while stack and not stack[-1][0]:
            stack.pop()
        if not stack:
            return

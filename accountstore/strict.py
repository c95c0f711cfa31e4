"""What the decoders let pass and would lose data: duplicate keys, text that is not UTF-8, nesting too deep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import MsgspecError
from msgspec.msgpack import decode

from accountstore.errors import DecodeError

MAX_DEPTH = 32
"""Objects and arrays inside one another."""

_STRING = r'(?s)\\.|"[^"\\]*(?:\\.[^"\\]*)*"?'


def check_json(data: bytes, /) -> None:
    """Raise `DecodeError` unless `data` is UTF-8 JSON, at most `MAX_DEPTH` deep, with no key twice in an object."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise DecodeError(
            "is UTF-16 with a byte order mark: save it as UTF-8" if is_utf16 else "is not UTF-8"
        ) from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        depth = 0
        for mark in re.findall(r"[\[\]{}]", re.sub(_STRING, "", text)):
            depth += 1 if mark in "[{" else -1
            if depth > MAX_DEPTH:
                raise DecodeError(f"is nested deeper than {MAX_DEPTH} levels")
    import json

    try:
        # Numbers stay text: converting them is the decoder's work.
        json.loads(text, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except json.JSONDecodeError:
        raise DecodeError("is not valid JSON") from None


def _distinct(pairs: list[tuple[Any, object]], /) -> dict[object, object]:
    # Times are told apart by microseconds, as the decoder has them; only the msgpack package has finer ones.
    fields = {key.to_unix_nano() // 1000 if hasattr(key, "to_unix_nano") else key: value for key, value in pairs}
    if len(fields) != len(pairs):
        raise DecodeError("an object has the same key twice")
    return fields


def check_msgpack(data: bytes, /) -> None:
    """Raise `DecodeError` unless `data` is MessagePack, at most `MAX_DEPTH` deep, with no key twice in a map."""
    from msgpack import StackError, unpackb

    too_deep = DecodeError(f"is nested deeper than {MAX_DEPTH} levels")
    try:
        level = _containers([unpackb(data, object_pairs_hook=_distinct, strict_map_key=False)])
        decode(data)  # which takes fewer kinds of keys
    except DecodeError:
        raise
    except (StackError, RecursionError):
        raise too_deep from None
    except (ValueError, TypeError, MsgspecError):
        raise DecodeError("is not valid MessagePack") from None
    for _ in range(MAX_DEPTH):
        level = _containers(child for part in level for child in (part.values() if isinstance(part, dict) else part))
    if level:
        raise too_deep


def _containers(parts: Iterable[Any], /) -> list[Any]:
    return [part for part in parts if isinstance(part, (dict, list))]

"""The shared checks: names, extensions and sizes. Pure functions, no I/O.

Every operation, the command line and migration go through these, so a document that one storage takes can move to any
other. No message quotes the text that it refuses, but for the character that no name has.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from inspect import iscoroutinefunction
from math import inf
from typing import Literal, TypeAlias

from accountstore.errors import ConfigError, ExtensionError, LocationError, TooLargeError

MAX_BYTES = 256 * 1024
"""Bytes of one document, unless the configuration says otherwise."""
MAX_SEGMENT = 255
"""UTF-8 bytes of a storage name, a folder segment or a file name."""
MAX_PATH = 1024
"""UTF-8 bytes of folder and file name together."""
RESERVED_PREFIX = ".accountstore-"
"""File names of the library's own temporary files and probe documents."""

Kind: TypeAlias = Literal["account", "multi"]
"""Which document a file name promises: `*.account` or `*.multi.account`."""

_EMPTY = "a segment is empty (no slash at its ends, and no two in a row)"
_SHORT = 4
_SINGLE = ".account"
_MULTI = ".multi.account"

# Separators, drives and schemes, globs, version suffixes; control characters; line separators; lone surrogates.
_FORBIDDEN = "[\\\\/:*?\\[\\]{}#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"


def check_storage_name(name: str, /) -> None:
    """Raise `LocationError` unless `name` can name a storage."""
    if str(name).endswith(":"):
        raise LocationError("storage: has ':' at its end; here give the name without its colon")
    _check_segment(name, "storage")


def check_folder(folder: str, /) -> None:
    """Raise `LocationError` unless `folder` is empty (the root) or allowed segments joined by `/`."""
    if not isinstance(folder, str):
        raise TypeError("folder: must be text such as 'mail/team-a'")
    if folder.startswith("/"):
        raise LocationError(f"folder: {_EMPTY}; a location is no path of the file system, and begins without a slash")
    if folder:
        for segment in folder.split("/"):
            _check_segment(segment, "folder")
            if segment.endswith(_SINGLE):
                raise LocationError("folder: a segment ends in .account and would stand in a document's place")


def check_file_name(name: str, /) -> None:
    """Raise `LocationError` unless `name` is one allowed segment. The extension is `check_kind`'s concern."""
    if name == "":
        raise LocationError("file name: is missing: a location is [storage:][folder/]file")
    _check_segment(name, "file name")


def check_path(folder: str, name: str, /) -> None:
    """Raise `LocationError` when folder and file name together are longer than `MAX_PATH` bytes."""
    if len(folder) + len(name) >= MAX_PATH // 4 and len(f"{folder}/{name}".encode()) > MAX_PATH:
        raise LocationError(f"folder and file name: longer than {MAX_PATH} bytes")


def join(folder: str, name: str, /) -> str:
    """A folder and what is in it, joined by `/`. Either may be empty."""
    return f"{folder}/{name}" if folder and name else folder or name


def _check_segment(text: str, what: str, /) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what}: must be text")
    if not text:
        raise LocationError(f"{what}: {_EMPTY}")
    if text in {".", ".."}:
        raise LocationError(f"{what}: a segment is '.' or '..'")
    if what == "file name" and "/" in text:
        raise LocationError("file name: has a slash: its folder is an argument of its own, `folder`")
    if found := re.search(_FORBIDDEN, text):
        character = f"'{found[0]}'" if found[0].isprintable() else f"U+{ord(found[0]):04X}"
        advice = "; a storage is an argument of its own, `storage`" if found[0] == ":" and what != "storage" else ""
        raise LocationError(
            f"{what}: has {character}: no separator, control, wildcard, drive or version-suffix character is allowed"
            f"{advice}"
        )
    if text.startswith(RESERVED_PREFIX):
        raise LocationError(f"{what}: begins with the reserved {RESERVED_PREFIX!r}")
    if text.isascii():
        length = len(text)
    else:
        from unicodedata import is_normalized

        if not is_normalized("NFC", text):
            raise LocationError(
                f'{what}: is not in Unicode normal form C, as unicodedata.normalize("NFC", name) makes it'
            )
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


def check_seconds(name: str, value: object, /, *, most: float = inf, or_zero: bool = False) -> None:
    """Raise `TypeError` or `ValueError` unless `value` is a positive number of seconds, of at most so many."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds")
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        number = inf
    if not (0 < number < inf or (or_zero and number == 0)):
        raise ValueError(f"{name} must be a positive and finite number of seconds")
    if number > most:
        raise ValueError(f"{name} must be at most {most:g} seconds")


def check_plain(name: str, function: object, /) -> None:
    """Raise `TypeError` unless `function` is a plain one, or None. What a coroutine function returns, or an object
    whose `__call__` is one, would never be awaited.
    """
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"{name} must be a plain function, not {type(function).__name__}")
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        raise TypeError(f"{name} must be a plain function, not a coroutine function")


def check_header(name: str, text: str, /) -> None:
    """Raise `ConfigError` for text that no header of HTTP can have, as with the line break that a file ends with."""
    if text != text.strip() or not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{name}: has a line break, white space around it, or a character that no header can have")


def sealed_limit(max_bytes: int, /) -> int:
    """How many bytes the file of a sealed document may have that has at most `max_bytes` itself."""
    return 4 * (max_bytes // 3 + 1) + 64 * 1024  # base64, and ten recipients with the longest names


def nearest(word: str, known: Collection[str], /) -> str | None:
    """The word that is most like another, if one is alike: a short one by half of it, if both begin alike."""
    with suppress(OSError):  # the process may have no descriptor left for the import
        from difflib import get_close_matches

        begin_alike = [other for other in known if len(word) <= _SHORT and other[:1] == word[:1]]
        near = get_close_matches(word, known, n=1) or get_close_matches(word, begin_alike, n=1, cutoff=0.5)
        return next(iter(near), None)
    return None


def did_you_mean(word: str, known: Collection[str], /) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    if close := nearest(word, known):
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""

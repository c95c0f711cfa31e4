"""A document's JSON: its kind, what a user gives, what a user sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Raw, Struct

from accountstore import Account, DecodeError, DocumentError, ExtensionError, MultiAccount, Secret, TooLargeError
from accountstore.bodies import is_address, unknown_fields
from accountstore.cli.exits import print_error
from accountstore.codecs import JSON, without_mark
from accountstore.location import Located
from accountstore.model import masks_in
from accountstore.validation import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from accountstore import Location

__all__ = ("Shown", "document_kind_at", "kind_at", "read_given", "tree_of", "warn_of_near_misses")

Shown: TypeAlias = "Raw | str | list[Mapping[str, Shown]] | Mapping[str, Shown]"
"""A part of a document to show: its JSON, a mask, several accounts, or an object."""

_MASK = str(Secret(""))


def kind_at(location: Location, /) -> type[Account | MultiAccount]:
    """The class of document that the location's file name promises.

    Raises:
        ExtensionError: neither.
    """
    with Located(location):
        return Account if kind_of(location.file_name) == "account" else MultiAccount


def document_kind_at(location: Location, for_folders: str, /) -> type[Account | MultiAccount]:
    """As `kind_at`, whose error leads to the command for what may be a folder."""
    try:
        return kind_at(location)
    except ExtensionError as error:
        what = f"{error.message}; for folders: accountstore {for_folders}"
    raise ExtensionError(what, location=location)


def read_given(
    stream: BinaryIO, kind: type[Account | MultiAccount], max_bytes: int, /, *, source: str = "standard input"
) -> bytes:
    """Read the JSON that a user gives, and check it. `source` says in errors where from.

    Raises:
        DecodeError: it is not such a document, or a secret in it is the mask that `get` shows.
        TooLargeError: it has more than `max_bytes`.
    """
    data = stream.read(max_bytes + 1)
    try:
        if len(data) > max_bytes:
            raise TooLargeError(f"has more than the {max_bytes} bytes allowed")
        data = data.strip(b" \t\r\n")
        if not data:
            raise DecodeError("is empty")
        if any(masks_in(JSON.decode(data, kind))):
            raise DecodeError("a secret in it is masked: `accountstore get --json --reveal` shows secrets")
    except DocumentError as error:
        raise type(error)(f"{source}: {error}") from None
    return data


def warn_of_near_misses(data: bytes, kind: type[Account | MultiAccount], /) -> None:
    """Name on stderr each field that is kept, but not known, and looks like a known one that is misspelt."""
    for field, hint in unknown_fields(JSON.decode(data, kind), msgspec.json.decode(without_mark(data))):
        if "did you mean" in hint:
            print_error(f"warning: {field}: is not a field here, and is kept{hint}")


def tree_of(data: bytes, kind: type[Account | MultiAccount], /, *, reveal: bool) -> dict[str, Shown]:
    """The fields of a document's JSON, for showing.

    Without `reveal`, secrets are masked; so is what this release does not know, for it may be secret, and a
    `requestUrl` that is more than an address: some programs put a token there.
    """
    return _tree(JSON.decode(data, kind), data, reveal=reveal)


def _tree(document: Struct, data: bytes | Raw, /, *, reveal: bool) -> dict[str, Shown]:
    names = dict(zip(document.__struct_encode_fields__, document.__struct_fields__, strict=True))
    tag = document.__struct_config__.tag_field
    shown: dict[str, Shown] = {}
    for name, raw in msgspec.json.decode(data, type=dict[str, Raw]).items():
        value = getattr(document, names[name]) if name in names else None
        match value:
            case Struct():
                shown[name] = _tree(value, raw, reveal=reveal)
            case tuple():
                items = msgspec.json.decode(raw, type=list[Raw])
                shown[name] = [_tree(part, item, reveal=reveal) for part, item in zip(value, items, strict=True)]
            case _ if reveal or name == tag or (name in names and _harmless(name, value)):
                shown[name] = raw
            case _:
                shown[name] = _MASK
    return shown


def _harmless(name: str, value: object, /) -> bool:
    if name == "requestUrl" and isinstance(value, str):
        return is_address(value)
    return not isinstance(value, Secret)

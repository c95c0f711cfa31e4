"""The four operations of the client-account API: get, get_multi, save, save_multi."""

from __future__ import annotations

from random import random
from typing import Literal, TypeAlias

import anyio
import msgspec
from starlette.responses import Response

from accountstore import (
    Account,
    AccountStore,
    ConflictError,
    DecodeError,
    ExistsError,
    ExtensionError,
    Location,
    MultiAccount,
    NotFoundError,
    Stored,
    UnsupportedError,
    Version,
    to_json,
)
from accountstore.gateway.merging import KEEPERS, READERS, Fields
from accountstore.gateway.problems import Problem, missing
from accountstore.gateway.service import Call
from accountstore.gateway.wire import (
    ascii_json,
    check_object,
    fields_of,
    location_of,
    lower_first,
    query_of,
    read_body,
    text_in,
)

__all__ = ("get", "get_multi", "reachable", "save", "save_multi")

Kind: TypeAlias = Literal["account", "multi"]

_ATTEMPTS = 64
_PAUSE = 0.002
_LONGEST_PAUSE = 0.25


async def get(call: Call, /) -> Response:
    """Get an account."""
    location = _asked(call)
    return _answer(call, location, await call.store.read(location))


async def get_multi(call: Call, /) -> Response:
    """Get a multi account."""
    location = _asked(call)
    return _answer(call, location, await call.store.read_multi(location))


async def save(call: Call, /) -> Response:
    """Create or replace an account. Fields and tokens that a client does not know are kept."""
    return await _save(call, "account")


async def save_multi(call: Call, /) -> Response:
    """Create or replace a multi account. Fields and tokens that a client does not know are kept."""
    return await _save(call, "multi")


def reachable(call: Call, location: Location, /) -> Location:
    """A location. Raises `Problem` where its storage is not within reach, or not there: both look the same."""
    if location.storage is not None and location.storage not in call.store.storages:
        raise missing()
    return location


def _asked(call: Call, /) -> Location:
    query = query_of(call.request)
    asked = (query.get(name, "") for name in ("fileName", "folder", "storage"))
    return reachable(call, location_of(*asked))


def _answer(call: Call, location: Location, stored: Stored[Account] | Stored[MultiAccount], /) -> Response:
    """A document with its ETag; without it, where the client has it already."""
    etags, headers, path = call.service.etags, call.request.headers, location.path
    tag = {"etag": etags.of(path, stored.version)}
    match = headers.get("if-match")
    if match is not None and not etags.matches(match, path, stored.version, weak=False):
        raise _precondition()
    none_match = headers.get("if-none-match")
    if none_match is not None and etags.matches(none_match, path, stored.version, weak=True):
        return Response(None, 304, tag)
    return Response(ascii_json(to_json(stored.document, reveal=True)), 200, tag, "application/json")


async def _save(call: Call, kind: Kind, /) -> Response:
    """Write what the request has, with what the stored document has beyond it, if that is still the current one."""
    location, new = await _given(call, kind)
    check_kind(location, kind)
    pause = _PAUSE
    for _ in range(_ATTEMPTS):
        version, document = await _stored(call, location)
        conditional = _check_conditions(call, location, version)
        kept = new if document is None else KEEPERS[kind](new, READERS[kind](document, "$", str))
        try:
            saved = await _swap(call.store, location, msgspec.json.encode(kept), version, conditional)
        except (ConflictError, ExistsError, NotFoundError):
            if conditional:
                raise _precondition() from None
        else:
            return Response(None, 200, {"etag": call.service.etags.of(location.path, saved)})
        await anyio.sleep(pause * random())  # noqa: S311 -- so that those who have met do not meet again
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise ConflictError("the document kept changing", location=location)


def check_kind(location: Location, kind: Kind, /) -> None:
    """Raise `ExtensionError` unless the file name is one of the kind, as the store does for `save` and `save_multi`."""
    if location.file_name.endswith(".multi.account") != (kind == "multi"):
        raise ExtensionError(
            f"the file name must end in .multi.account{'' if kind == 'multi' else ' for several only'}"
        )


async def _swap(
    store: AccountStore, location: Location, data: bytes, version: Version | None, conditional: bool, /
) -> Version:
    """Write a document if the version is still the current one; or anyway, where the storage cannot tell and nobody
    asks for it.
    """
    try:
        return await store.save_json(location, data, mode=version or "create")
    except UnsupportedError:
        if conditional:
            raise
    return await store.save_json(location, data)


async def _given(call: Call, kind: Kind, /) -> tuple[Location, Fields]:
    """The location and the fields of the document in the body of a save."""
    limits = call.service.config.limits
    body = fields_of(check_object(await read_body(call.request, limits)), "$")
    for name in ("storageFile", "value"):
        if name not in body:
            raise Problem(400, "badRequest", f"{name}: is missing")
    file = fields_of(body["storageFile"], "storageFile")
    asked = (text_in(file, name, "storageFile") for name in ("fileName", "folderPath", "storage"))
    return reachable(call, location_of(*asked)), READERS[kind](body["value"], "value", lower_first)


async def _stored(call: Call, location: Location, /) -> tuple[Version | None, bytes | None]:
    """Version and JSON of the document that is there. What cannot be read is replaced whole."""
    try:
        stored = await call.store.read_json(location)
    except NotFoundError:
        return None, None
    except DecodeError:
        return (await call.store.stat(location)).version, None
    return stored.version, stored.document


def _check_conditions(call: Call, location: Location, version: Version | None, /) -> bool:
    """Whether the request has conditions. Raises `Problem` where one is not met."""
    etags, path = call.service.etags, location.path
    match, none_match = (call.request.headers.get(name) for name in ("if-match", "if-none-match"))
    if match is not None and not etags.matches(match, path, version, weak=False):
        raise _precondition()
    if none_match is not None and etags.matches(none_match, path, version, weak=True):
        raise _precondition()
    return match is not None or none_match is not None


def _precondition() -> Problem:
    return Problem(412, "changed", "the document is not in the state that the request asks for: read it again")

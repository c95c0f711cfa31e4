"""The four operations of the client-account API: get, get_multi, save, save_multi."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import getLogger
from random import random
from typing import Literal, TypeAlias, TypeVar

import anyio
import msgspec
from starlette.responses import Response

from accountstore import (
    Account,
    AccountStoreError,
    ConflictError,
    DecodeError,
    DeniedError,
    EncodeError,
    Exchange,
    ExistsError,
    ExtensionError,
    KeyDeniedError,
    Location,
    MultiAccount,
    NotFoundError,
    SealError,
    Secret,
    Stored,
    TooLargeError,
    UnsupportedError,
    Version,
)
from accountstore.gateway.conditions import Conditions, conditions_of, precondition
from accountstore.gateway.front import id_of
from accountstore.gateway.merging import KEEPERS, READERS, Fields, is_plain, renewed, spent_in
from accountstore.gateway.problems import UNREADABLE, Problem, missing
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
from accountstore.lease import FIELD

__all__ = ("Unreadable", "get", "get_multi", "reachable", "replace", "save", "save_multi")

D = TypeVar("D", Account, MultiAccount)
Kind: TypeAlias = Literal["account", "multi"]
Merge: TypeAlias = Callable[[bytes | None], tuple[bytes, bool]]
"""What to write over the JSON of a document, or where there is none; and whether that has nothing to keep."""

_LOG = getLogger("accountstore.gateway")
_JSON = msgspec.json.Encoder(enc_hook=Secret.reveal)
"""As `to_json` has a document, which checks first whether it can be: one that was read can."""
_WAIT = 0.95
"""The part of its time that a get waits for fresh tokens: the rest is for its answer."""
_NOT_TAKEN = (UnsupportedError, DeniedError)
"""What says that a storage would not take new tokens, where that is found out only when it is asked."""
_PLACE = ("fileName", "folderPath", "storage")
_ATTEMPTS = 64
_PAUSE = 0.002
_LONGEST_PAUSE = 0.25


class Unreadable(Problem):
    """What is stored cannot be read: nothing of it could be kept."""


async def get(call: Call, /) -> Response:
    """Get an account."""
    location = _asked(call)
    return _answer(call, location, await _fresh(call, location, call.store.read, call.store.refresh))


async def get_multi(call: Call, /) -> Response:
    """Get a multi account."""
    location = _asked(call)
    return _answer(call, location, await _fresh(call, location, call.store.read_multi, call.store.refresh_multi))


async def save(call: Call, /) -> Response:
    """Create or replace an account. Fields and tokens that a client does not know are kept."""
    return await _save(call, "account")


async def save_multi(call: Call, /) -> Response:
    """Create or replace a multi account. Fields and tokens that a client does not know are kept."""
    return await _save(call, "multi")


async def _fresh(
    call: Call,
    location: Location,
    read: Callable[[Location], Awaitable[Stored[D]]],
    refresh: Callable[[Location, Exchange], Awaitable[Stored[D]]],
    /,
) -> Stored[D]:
    """A document, with fresh tokens where there is an exchange and its storage would take the new ones."""
    by = anyio.current_time() + _WAIT * call.service.config.limits.request_seconds
    stored = await read(location)
    exchange = call.service.refresh
    if exchange is None or not call.store.capabilities(location.storage).update:
        return stored
    if not call.store._is_due(location, stored):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- as it judges
        return stored
    try:
        return await call.service.renewals.run(lambda: refresh(location, exchange), by)
    except (AccountStoreError, Problem) as error:
        told = f"{error.message} ({type(error).__name__})"
        _LOG.warning("request %s: %s: the tokens were not refreshed: %s", id_of(call.request.scope), location, told)
        if isinstance(error, _NOT_TAKEN):
            raise Problem(502, "notRefreshed", "the storage does not take new tokens of the account") from None
        raise


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
    etags = call.service.etags
    tag = {"etag": etags.of(location.path, stored.version)}
    if conditions_of(call.request).is_known(etags, location, stored.version):
        return Response(None, 304, tag)
    return Response(ascii_json(_JSON.encode(stored.document)), 200, tag, "application/json")


async def _save(call: Call, kind: Kind, /) -> Response:
    """Write what the request has, with what the stored document has beyond it, if that is still the current one."""
    location, new = await _given(call, kind)
    check_kind(location, kind)
    conditions = conditions_of(call.request)
    known = call.service.plain.take(call.store, location)
    saved = await _save_plain(call, location, kind, new, known) if known is not None and not conditions else None
    if saved is None:
        saved = await replace(call, location, conditions, lambda old: _merged(kind, new, old))
    return Response(None, 200, {"etag": call.service.etags.of(location.path, saved)})


async def _save_plain(call: Call, location: Location, kind: Kind, new: Fields, version: Version, /) -> Version | None:
    """Write what the request has over a version that has nothing to keep. None: it is no longer the current one."""
    plain = is_plain(new, kind)
    try:
        saved = await call.store.save_json(location, msgspec.json.encode(new), mode=version)
    except (ConflictError, NotFoundError, UnsupportedError):
        return None
    if plain:
        call.service.plain.put(call.store, location, saved)
    return saved


def _merged(kind: Kind, new: Fields, document: bytes | None, /) -> tuple[bytes, bool]:
    """What a save writes over the JSON of a document."""
    kept = new
    if document is not None:
        old = READERS[kind](document, "$", str)
        spent = spent_in(old)
        kept = KEEPERS[kind](renewed(new, kind, spent), old, spent)
    return msgspec.json.encode(kept), is_plain(kept, kind)


async def replace(call: Call, location: Location, conditions: Conditions, merge: Merge, /) -> Version:
    """Read a document, merge, and write if it is still what was read; where others were faster, again.

    Raises:
        Unreadable: the stored document cannot be read: nothing of it could be kept.
    """
    pause = _PAUSE
    attempts = 0
    while (saved := await _replace(call, location, conditions, merge)) is None:
        attempts += 1
        if attempts == _ATTEMPTS:
            raise ConflictError("the document kept changing", location=location)
        await anyio.sleep(pause * random())  # noqa: S311 -- so that those who have met do not meet again
        pause = min(2 * pause, _LONGEST_PAUSE)
    return saved


async def _replace(call: Call, location: Location, conditions: Conditions, merge: Merge, /) -> Version | None:
    """One attempt. None: others were faster."""
    version, document = await _stored(call, location)
    conditions.check(call.service.etags, location, version)
    data, plain = merge(document)
    try:
        saved = await call.store.save_json(location, data, mode=version or "create")
    except UnsupportedError:
        if conditions:
            raise
        return await call.store.save_json(location, data)
    except (ConflictError, ExistsError, NotFoundError):
        if conditions:
            raise precondition() from None
        return None
    if plain:
        call.service.plain.put(call.store, location, saved)
    return saved


def check_kind(location: Location, kind: Kind, /) -> None:
    """Raise `ExtensionError` unless the file name is one of the kind, as the store does for `save` and `save_multi`."""
    if location.file_name.endswith(".multi.account") != (kind == "multi"):
        raise ExtensionError(
            f"the file name must end in .multi.account{'' if kind == 'multi' else ' for several only'}"
        )


async def _given(call: Call, kind: Kind, /) -> tuple[Location, Fields]:
    """The location and the fields of the document in the body of a save."""
    limits = call.service.config.limits
    body = fields_of(check_object(await read_body(call.request, limits)), "$")
    for name in ("storageFile", "value"):
        if name not in body:
            raise Problem(400, "badRequest", f"{name}: is missing")
    file = fields_of(body["storageFile"], "storageFile")
    if not file.keys() <= {*_PLACE}:  # such as `folder`: the document would be saved elsewhere
        raise Problem(400, "badRequest", f"storageFile: may have {', '.join(_PLACE)} only")
    asked = (text_in(file, name, "storageFile") for name in _PLACE)
    new = READERS[kind](body["value"], "value", lower_first)
    new.pop(FIELD, None)  # the stored one stands: who has a lease is not for a client to say
    return reachable(call, location_of(*asked)), new


async def _stored(call: Call, location: Location, /) -> tuple[Version | None, bytes | None]:
    """Version and JSON of the document that is there.

    Raises `Unreadable` where it cannot be read, as one of a newer release, or one whose key is missing.
    """
    try:
        stored = await call.store.read_json(location)
    except NotFoundError:
        return None, None
    except (DecodeError, EncodeError, SealError, TooLargeError) as error:
        if error.temporary or isinstance(error, KeyDeniedError):
            raise
        told = f"what is stored there cannot be read, and would be lost: {UNREADABLE}"
        if isinstance(error, EncodeError):
            told = f"what is stored there {error.message}, and would be lost"
        raise Unreadable(409, "badStored", told) from None
    return stored.version, stored.document

"""Whether a storage honours conditions, as tried on a document of the store's own.

Some servers accept a conditional request and ignore the condition, and some honour it for writes only.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from contextlib import suppress
from datetime import datetime

import anyio
from msgspec.structs import replace

from accountstore.backends.base import Backend, Version, classify_error
from accountstore.errors import BackendError, ConflictError, DeniedError, ExistsError, UnsupportedError
from accountstore.retry import Conditions
from accountstore.validation import RESERVED_PREFIX, join

_CLEANUP_SECONDS = 1.0
"""What may go into removing the probe document when the deadline has passed."""


async def probe(backend: Backend, folder: str, /) -> Conditions:
    """Provoke a second create, a stale swap and a stale delete in a folder, on a document that has the same name each
    time: where it may not be removed, the next probe finds it. Six requests; else no document stays.

    What this finds missing is tried once more under a name of its own: another store may have probed meanwhile.

    Raises whatever the backend raises where the document can neither be written nor is there, or a request fails for
    another reason than its condition.
    """
    with suppress(FileNotFoundError):  # a NotFoundError is one: another probe has removed the document meanwhile
        found = await _probe(backend, _key(folder, "accountstore"))
        if found.create and found.update and found.delete:
            return found
    return await _probe(backend, _key(folder, os.urandom(8).hex()))


async def server_time(backend: Backend, folder: str, /) -> datetime | None:
    """The time by the clock that dates documents, at some moment of this call; None where documents have no date.

    It is that of a document with the name of a probe's, which another call may write meanwhile, or remove.
    """
    with suppress(FileNotFoundError):
        return await _time_of(backend, _key(folder, "accountstore"))
    return await _time_of(backend, _key(folder, os.urandom(8).hex()))


async def _time_of(backend: Backend, key: str, /) -> datetime | None:
    try:
        await backend.write(key, _content(), mode="overwrite")
        return (await backend.stat(key)).modified
    finally:
        await _remove(backend, key)


async def _probe(backend: Backend, key: str, /) -> Conditions:
    found = Conditions(create=False, update=False, delete=False)
    try:
        first = await _create(backend, key)
        if first is None or not await _is_refused(backend.write(key, _content(), mode="create"), ExistsError):
            return found
        found = replace(found, create=True)
        with suppress(ConflictError):  # another probe's
            await backend.write(key, _content(), mode=first)
        if not await _is_refused(backend.write(key, _content(), mode=first), ConflictError):
            return found
        found = replace(found, update=True)
        delete = await _is_refused(backend.delete(key, version=first), ConflictError, DeniedError)
        return replace(found, delete=delete)
    except UnsupportedError as error:
        return replace(found, unsupported=error.message)
    finally:
        await _remove(backend, key)


async def _create(backend: Backend, key: str, /) -> Version | None:
    """Create the document; the version of it, or of that which stands there."""
    try:
        return (await backend.write(key, _content(), mode="create")).version
    except Exception as error:
        if not issubclass(classify_error(error), ExistsError):
            raise
    return (await backend.stat(key)).version


async def _remove(backend: Backend, key: str, /) -> None:
    with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), suppress(Exception):  # a delete may be denied
        await backend.delete(key)


def _key(folder: str, name: str, /) -> str:
    return join(folder, f"{RESERVED_PREFIX}{name}.probe")


def _content() -> bytes:
    """Different each time, as a version may be a digest."""
    return os.urandom(8).hex().encode()


async def _is_refused(call: Awaitable[object], *kinds: type[BackendError]) -> bool:
    """Whether a call fails for its condition; any other failure is raised."""
    try:
        await call
    except Exception as error:
        if not issubclass(classify_error(error), kinds):
            raise
        return True
    return False

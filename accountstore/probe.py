"""Whether a storage honours conditions, as tried on a document of the store's own.

Some servers accept a conditional request and ignore the condition, and some honour it for writes only.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from contextlib import suppress

import anyio
from msgspec import Struct

from accountstore.backends.base import Backend, Capabilities, classify_error
from accountstore.errors import BackendError, ConflictError, ExistsError, UnsupportedError
from accountstore.validation import RESERVED_PREFIX, join

_CLEANUP_SECONDS = 1.0
"""What may go into removing the probe document when the deadline has passed."""


class Conditions(Struct, frozen=True):
    """Which conditions a storage honours: of a create, of a swap, of a delete."""

    create: bool
    update: bool
    delete: bool

    @classmethod
    def declared(cls, capabilities: Capabilities, /) -> Conditions:
        """Those that a backend declares."""
        return cls(capabilities.create, capabilities.update, capabilities.update)


async def probe(backend: Backend, folder: str, /) -> Conditions:
    """Provoke a second create, a stale swap and a stale delete in a folder. Six requests; no document stays.

    Raises whatever the backend raises where the probe document cannot be written at all, or a request fails for another
    reason than its condition.
    """
    key = join(folder, f"{RESERVED_PREFIX}{os.urandom(8).hex()}.probe")
    try:
        first = (await backend.write(key, b"1", mode="create")).version
        create = await _is_refused(backend.write(key, b"2", mode="create"), ExistsError)
        if first is None or not create:
            return Conditions(create, update=False, delete=False)
        await backend.write(key, b"3", mode=first)
        update = await _is_refused(backend.write(key, b"4", mode=first), ConflictError)
        delete = update and await _is_refused(backend.delete(key, version=first), ConflictError)
        return Conditions(create, update, delete)
    finally:
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), suppress(Exception):  # a delete may be denied
            await backend.delete(key)


async def _is_refused(call: Awaitable[object], kind: type[BackendError], /) -> bool:
    """Whether a call fails for its condition; any other failure is raised, but for a refusal to try."""
    try:
        await call
    except UnsupportedError:
        return False
    except Exception as error:
        if not issubclass(classify_error(error), kind):
            raise
        return True
    return False

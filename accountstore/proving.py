"""Whether a storage honours conditions: tried on a passing document, never believed.

Some servers accept a conditional request and ignore the condition, and some honour it for writes only.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

from accountstore.errors import ConflictError, ExistsError, UnsupportedError
from accountstore.validation import RESERVED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from accountstore.backends.base import Backend, Capabilities
    from accountstore.errors import BackendError

__all__ = ("Proof", "prove")

_TIDYING = 1.0
"""Seconds that may go into removing the passing document when the deadline has passed."""


class Proof(Struct, frozen=True):
    """What a storage was seen to honour: a create, a swap, a conditional delete."""

    create: bool
    update: bool
    delete: bool

    @classmethod
    def believed(cls, capabilities: Capabilities, /) -> Proof:
        """What a backend declares."""
        return cls(capabilities.create, capabilities.update, capabilities.update)


async def prove(backend: Backend, folder: str, /) -> Proof:
    """Provoke a second create, a stale swap and a stale delete in a folder. Six requests, and nothing stays.

    Raises whatever the backend raises where the passing document cannot be written at all.
    """
    name = f"{RESERVED_PREFIX}{os.urandom(8).hex()}.probe"
    key = f"{folder}/{name}" if folder else name
    try:
        first = (await backend.write(key, b"1", mode="create")).version
        create = await _is_refused(backend, backend.write(key, b"2", mode="create"), ExistsError)
        if first is None or not create:
            return Proof(create, update=False, delete=False)
        await backend.write(key, b"3", mode=first)
        update = await _is_refused(backend, backend.write(key, b"4", mode=first), ConflictError)
        delete = update and await _is_refused(backend, backend.delete(key, version=first), ConflictError)
        return Proof(create, update, delete)
    finally:
        with anyio.move_on_after(_TIDYING, shield=True), suppress(Exception):  # who may not delete may still write
            await backend.delete(key)


async def _is_refused(backend: Backend, call: Awaitable[object], kind: type[BackendError], /) -> bool:
    """Whether a call fails for its condition; any other failure is raised, but for a refusal to try."""
    try:
        await call
    except UnsupportedError:
        return False
    except Exception as error:
        if not issubclass(backend.classify(error), kind):
            raise
        return True
    return False

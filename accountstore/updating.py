"""Read, change, swap, again: update, and the copy and move of documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeAlias, TypeVar

from accountstore.backends.base import WriteMode
from accountstore.client import condition_of
from accountstore.errors import ConflictError, LocationError, NotFoundError
from accountstore.events import Operation
from accountstore.model import Account, Document, MultiAccount
from accountstore.retry import backoff
from accountstore.storage import DocumentRef, Opened, Stored

D = TypeVar("D", bound=Account | MultiAccount)
Change: TypeAlias = "Callable[[D], D | Awaitable[D]]"
"""A function, async or not, from a document to the new one."""

_ATTEMPTS = 64
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.25


async def update(operation: Operation, ref: DocumentRef, change: Change[D], kind: type[D], /) -> Stored[D]:
    """Read, change and swap, again on conflict (`AccountStore.update`)."""
    await ref.require("update")
    while True:
        opened = await ref.read(kind)
        stored = operation.record(opened.stored)
        changed = change(stored.document)
        document = await changed if isawaitable(changed) else changed
        if document == stored.document:
            return stored
        try:
            return operation.record(await ref.write(document, kind, stored.version, opened.plain))
        except ConflictError:
            if operation.attempts == _ATTEMPTS:
                raise
        await backoff(operation.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        operation.attempts += 1


async def copy(
    operation: Operation, source: DocumentRef, target: DocumentRef, mode: WriteMode, /
) -> tuple[Opened[Document], Stored[Document]]:
    """Write the source's document to the target; return what was read and what was written (`AccountStore.copy`)."""
    if mode != "overwrite":
        await target.require(condition_of(mode))
    opened = await source.read(source.kind)
    return opened, operation.record(await target.write_copy(opened, source.storage, mode))


async def move(operation: Operation, source: DocumentRef, target: DocumentRef, mode: WriteMode, /) -> Stored[Document]:
    """Copy, then remove the source if it is still what was copied, again on conflict (`AccountStore.move`)."""
    conditional = await source.honours("delete")
    while True:
        opened, stored = await copy(operation, source, target, mode)
        try:
            await source.delete(opened.stored.version if conditional else None)
        except ConflictError:
            if operation.attempts == _ATTEMPTS or not target.storage.client.capabilities.update:
                raise
        else:
            await _keep(opened, source, target)
            return stored
        mode = stored.version
        await backoff(operation.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        operation.attempts += 1


async def _keep(opened: Opened[Document], source: DocumentRef, target: DocumentRef, /) -> None:
    """Put a moved document back if removing it from one storage has removed it from the other: they are one."""
    if source.storage is not target.storage:
        try:
            await target.stat()
        except NotFoundError:
            await target.write_copy(opened, source.storage, "overwrite")
            raise LocationError("source and target are the same document", location=source.location) from None

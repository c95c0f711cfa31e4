"""Read, change, swap, again: update, and the copy and move of documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from inspect import isawaitable
from os import urandom
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from msgspec.structs import replace

from accountstore.backends.base import Stat, Version, WriteMode
from accountstore.errors import (
    ConflictError,
    DecodeError,
    ExistsError,
    KeyDeniedError,
    KeyProviderError,
    LeaseError,
    LocationError,
    NotFoundError,
    SealError,
)
from accountstore.events import Operation
from accountstore.lease import FIELD, field_of, key_of
from accountstore.leased import Hold, held, oauth_in
from accountstore.location import Located
from accountstore.model import Account, Document, MultiAccount
from accountstore.retry import backoff
from accountstore.secrets import instead_of
from accountstore.storage import DocumentRef, Opened, Stored

D = TypeVar("D", bound=Account | MultiAccount)
Change: TypeAlias = "Callable[[D], D | Awaitable[D]]"
"""A function, async or not, from a document to the new one."""

_ATTEMPTS = 64
_LEASE = 30.0
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.25


async def update(operation: Operation, ref: DocumentRef, change: Change[D], kind: type[D], /) -> Stored[D]:
    """Read, change and swap, again on conflict (`AccountStore.update`)."""
    await ref.require("update")
    while True:
        opened = await ref.read(kind)
        stored = operation.record(opened.stored)
        started = monotonic()
        changed: Any = change(stored.document)
        document: D = await changed if isawaitable(changed) else changed
        if document.__class__ is not kind:
            document = changed = instead_of(document)
        ref = replace(ref, by=ref.by + monotonic() - started)  # the caller's time is not the storage's
        if document == stored.document:
            return stored
        try:
            return operation.record(await ref.write(document, kind, stored.version, opened.plain))
        except ConflictError:
            if operation.attempts == _ATTEMPTS:
                raise
        await backoff(operation.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        operation.attempts += 1


async def swap(ref: DocumentRef, document: D, kind: type[D], mode: Version, /) -> Stored[D]:
    """Write a document in the place of a version (`AccountStore.save`). Where that was read here, those who exchange
    one of its refresh tokens keep their leases: others would spend the same token meanwhile.
    """
    leases = ref.storage.watch.leases_at(ref.key, mode)
    if not leases:
        return await ref.write(document, kind, mode)
    with Located(ref.location):
        plain = ref.storage.encode(document, kind)
    keys = {key_of(credentials.refresh_token) for credentials in oauth_in(document)}
    leases = {key: lease for key, lease in leases.items() if key in keys}
    before = Opened(Stored(document, mode, len(plain), None), plain)
    stored = (await ref.rewrite(before, document, kind, {FIELD: field_of(leases)})).stored
    ref.storage.watch.has_read(ref.key, stored.version, leases)  # for who goes on with what this returns
    return stored


async def copy(
    operation: Operation, source: DocumentRef, target: DocumentRef, mode: WriteMode, lease: float | None, /
) -> Stored[Document]:
    """Write the source's document to the target; with a lease, while nobody exchanges its refresh tokens
    (`AccountStore.copy`).
    """
    started = monotonic()
    await target.require_mode(mode)
    source = _later(source, target, started)
    if lease is None:
        opened = await source.read(source.kind)
        target = _later(target, source, started)
        return operation.record(await target.write_copy(opened, source.storage, mode))
    async with held(operation, source, lease) as hold:
        written = await target.renewed().write_copy(hold.opened, source.storage, mode)
    if hold.left is None:
        raise LeaseError("it took longer than the lease, and another has taken over", location=source.location)
    return operation.record(written)


async def move(operation: Operation, source: DocumentRef, target: DocumentRef, mode: WriteMode, /) -> Stored[Document]:
    """Copy, then remove the source if it is still what was copied, again on conflict (`AccountStore.move`).

    Meanwhile nobody exchanges a refresh token, whose successor would be lost with the source.
    """
    started = monotonic()
    conditional, can_hold = await source.honours("delete"), await source.honours("update")
    if source.storage.client.capabilities.read_only:
        await source.require("delete")  # which says so, before any I/O
    probing = monotonic()
    await target.require_mode(mode)
    source = _later(source, target, probing)
    opened = await source.read(source.kind)
    target = _later(target, source, started)
    is_leased, started = can_hold and any(oauth_in(opened.stored.document)), monotonic()
    there = await target.present() if is_leased or mode != "create" else None
    source = _later(source, target, started)
    if is_leased:
        _check_mode(target, mode, there)  # as a lease that is taken for nothing leaves the source with another version
    while True:
        started = monotonic()
        async with held(operation, source, _LEASE, opened) if can_hold else nullcontext(Hold(opened)) as hold:
            opened, waited = hold.opened, monotonic() - started
            source, target = (
                replace(ref, by=ref.by + waited) for ref in (source, target)
            )  # others' time is not theirs
            started = monotonic()
            stored = operation.record(await target.write_copy(opened, source.storage, mode))
            if there is not None and operation.attempts == 1:
                stored = await _tell_apart(_later(source, target, started), target, opened, stored)
            source, started = _later(source, target, started), monotonic()
            try:
                await source.delete(opened.version if conditional else None)
            except ConflictError:
                if operation.attempts == _ATTEMPTS or not target.storage.client.capabilities.update:
                    raise
            else:
                hold.is_gone = True
                return stored
        mode = stored.version
        await backoff(operation.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        operation.attempts += 1
        opened = await source.read(source.kind)
        target = _later(target, source, started)


def _later(ref: DocumentRef, other: DocumentRef, since: float, /) -> DocumentRef:
    """A document whose storage's time did not run since a moment, when another one was asked."""
    return ref if ref.storage is other.storage else replace(ref, by=ref.by + monotonic() - since)


def _check_mode(target: DocumentRef, mode: WriteMode, there: Stat | None, /) -> None:
    """Raise what a write in this mode would raise over what is there."""
    if mode == "create" and there is not None:
        raise ExistsError("there is a document already", location=target.location)
    if isinstance(mode, Version) and there is None:
        raise NotFoundError("there is no such document", location=target.location)
    if isinstance(mode, Version) and there is not None and there.version != mode:
        raise ConflictError("the document has changed since it was read", location=target.location)


async def _tell_apart(
    source: DocumentRef, target: DocumentRef, opened: Opened[Document], copied: Stored[Document], /
) -> Stored[Document]:
    """The target, to which the source was just copied. Raises `LocationError` if both are one document's names.

    What the storages say of who wrote each decides; where one does not say it, the target is written once more with a
    field of its own, and the source looked at.
    """
    started = monotonic()
    ours, theirs = await source.present(), await target.present()
    if ours is None or theirs is None:
        return copied
    are_one = ours.write_token == theirs.write_token
    if not (ours.write_token and theirs.write_token):
        field = {"accountstoreMove": urandom(8).hex()}
        conditional = await target.honours("update")
        marked = await target.write_copy(opened, source.storage, copied.version if conditional else "overwrite", field)
        source = _later(source, target, started)
        are_one = await _has(source, field["accountstoreMove"])
        copied = await target.write_copy(opened, source.storage, marked.version if conditional else "overwrite")
    if are_one:
        ends = source.storage, target.storage
        if ends[0].codec is not ends[1].codec or any(end.sealer is not None for end in ends):  # it is as the target's
            conditional = await source.honours("update")
            await source.write_copy(opened, source.storage, copied.version if conditional else "overwrite")
        raise LocationError("source and target are the same document", location=source.location)
    return copied


async def _has(source: DocumentRef, text: str, /) -> bool:
    """Whether a document that was just read has a text now; or no longer opens, for it is as the target has it."""
    try:
        return text.encode() in (await source.read(source.kind)).plain
    except (KeyDeniedError, KeyProviderError):
        raise
    except (DecodeError, SealError):
        return True

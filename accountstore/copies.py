"""Copies, many at a time: read, written in the target's codec and under its key, and verified."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import anyio
from msgspec import Struct
from msgspec.structs import replace

from accountstore.backends.base import Blob, Stat, Version, Write, WriteMode
from accountstore.batches import read, write
from accountstore.errors import AccountStoreError, BackendError
from accountstore.events import EventLog, Operation
from accountstore.leased import Terms, held, is_held, oauth_in
from accountstore.location import Location
from accountstore.model import Document
from accountstore.retry import condition_of
from accountstore.scope import Resolver
from accountstore.storage import Opened, Storage, stored
from accountstore.windows import Item, Member, Results, Windows, itself, location_of, result_of, results_of

Proof: TypeAlias = Literal["none", "write", "read"]
"""How a copy is verified: `"read"`, it is read back; `"write"`, by the MD5 that the storage answers the write with as
its version, as S3 does, or else it is read back; `"none"`.
"""


_Source: TypeAlias = Member[Opened[Document]]
"""A member with its source's document."""


class Copy(NamedTuple):
    """A document for `copy_many`. A tuple of the first two, or of all three, will do."""

    source: Location
    target: Location
    mode: WriteMode = "overwrite"


class Copied(Struct, frozen=True):
    """A document that `copy_many` has copied: the versions of both ends, and the bytes written.

    `verified` is False where it was not to be verified; where another writer has changed the target, or taken over the
    lease of the source, meanwhile; and where a `refresh` was exchanging a token of the source.
    What is read back otherwise from a target without conditions is a `BackendError` instead: nobody can tell another
    writer from a storage that keeps something else.
    """

    source_version: Version
    version: Version
    size: int
    verified: bool = False


def copy_many(
    resolver: Resolver,
    log: EventLog,
    copies: Iterable[tuple[Location, Location] | tuple[Location, Location, WriteMode]],
    verify: Proof,
    concurrency: int,
    lease: float | None,
    /,
) -> AsyncIterator[tuple[Location, Copied | AccountStoreError]]:
    """Each source within reach with what became of its copy, in order. Each is an event."""
    if verify not in get_args(Proof):
        raise ValueError("verify must be 'none', 'write' or 'read'")
    if lease is not None:
        Terms(0, lease, 0)
    items = (_copied_item(each) for each in copies)
    windows = Windows(resolver, log, "copy_many", items, partial(_copy, verify, lease, log), concurrency)
    return results_of(windows, itself)


def _copied_item(given: Any, /) -> Item[None]:
    try:
        source, target, mode = Copy(*given)
    except TypeError:
        raise TypeError("copy_many takes tuples: (source, target) or (source, target, mode), Locations both") from None
    if mode != "overwrite":
        condition_of(mode)
    return Item(location_of(target), None, mode, location_of(source))


async def _copy(
    verify: Proof,
    lease: float | None,
    log: EventLog,
    storage: Storage,
    members: Sequence[Member[None]],
    results: Results[Copied],
    at_once: int,
    /,
) -> None:
    """Copy a batch; with a lease, each document with OAuth tokens by itself, while it is held."""
    together: list[_Source] = []
    held_each: list[_Source] = []
    for member in await _opened(members, results, at_once):
        has_tokens = lease is not None and any(oauth_in(member.given.stored.document))
        (held_each if has_tokens else together).append(member)
    await _transfer(verify, storage, together, results, at_once)
    if lease is not None:
        turns = anyio.CapacityLimiter(at_once)
        async with anyio.create_task_group() as tasks:
            for member in held_each:
                tasks.start_soon(_transfer_held, verify, lease, log, turns, member, results)


async def _transfer_held(
    verify: Proof, lease: float, log: EventLog, turns: anyio.CapacityLimiter, member: _Source, results: Results[Copied]
) -> None:
    """Copy a document while nobody exchanges its refresh tokens: the version at the source is the one without leases
    that is left there, if the document is still what was copied.
    """
    source = member.source or member.ref
    operation = Operation(log, "copy_many", source.location, member.ref.location)
    try:
        await member.ref.renewed().require_mode(member.mode)  # before a lease is taken for nothing
        async with turns, held(operation, source, lease, member.given) as hold:
            now = member._replace(ref=member.ref.renewed(), given=hold.opened)
            await _transfer(verify, now.ref.storage, [now], results, 1)
    except AccountStoreError as error:
        results[member.place] = error.with_traceback(None)
        return
    result = results[member.place]
    if isinstance(result, Copied):
        left = hold.left
        results[member.place] = replace(
            result, source_version=left or result.source_version, verified=result.verified and left is not None
        )


async def _transfer(
    verify: Proof, storage: Storage, opened: Sequence[_Source], results: Results[Copied], at_once: int, /
) -> None:
    """Write documents that were read, and verify."""
    unproven: list[tuple[_Source, Write, Copied]] = []
    for member, done, stat in await write(storage, opened, _transcoded, results, at_once):
        result = result_of(member.ref, partial(_copied, member.given), stat)
        source = member.source or member.ref
        if isinstance(result, Copied) and verify != "none" and not await is_held(source.storage, member.given):
            if verify == "write" and _is_md5_of(done.data, result.version):
                result = replace(result, verified=True)
            else:
                unproven.append((member, done, result))
        results[member.place] = result
    if unproven:
        await _read_back(storage, unproven, results, at_once)


async def _opened(members: Sequence[Member[None]], results: Results[Any], at_once: int, /) -> list[_Source]:
    """The members with their sources' documents, those that can be read."""
    by_storage: dict[Storage, list[Member[None]]] = {}
    for member in members:
        if member.source is not None:
            found = member._replace(ref=member.source)
            by_storage.setdefault(found.ref.storage, []).append(found)
    sources: Results[Opened[Document]] = {}
    for storage, group in by_storage.items():
        await read(storage, group, sources, at_once)
    opened: list[_Source] = []
    for member in members:
        source = sources[member.place]
        if isinstance(source, AccountStoreError):
            results[member.place] = source
        else:
            opened.append(Member(member.place, member.ref, source, member.mode, member.source))
    return opened


def _transcoded(member: _Source, /) -> bytes:
    source = member.source or member.ref
    return member.ref.storage.copied(member.given, source.storage.codec, member.ref.kind)


def _copied(opened: Opened[Document], stat: Stat, /) -> Copied:
    written = stored(None, stat)
    return Copied(opened.stored.version, written.version, written.size)


async def _read_back(
    storage: Storage,
    written: Sequence[tuple[_Source, Write, Copied]],
    results: Results[Copied],
    at_once: int,
    /,
) -> None:
    """Compare what was written with what is there; what is sealed has to open, too.

    Where a storage has conditions, another version than that of the write is another writer's. Where it has none, the
    version of a write is a digest of what was sent, and nobody can tell what it keeps otherwise from what others wrote.
    """
    tells_writers = storage.client.capabilities.update
    keys = [done.key for _, done, _ in written]
    blobs = await storage.client.read_many(keys, at_once=at_once)
    opened = blobs
    if storage.sealer is not None:
        opened = await storage.sealer.open_many(keys, blobs)
    for (member, done, copied), blob, plain in zip(written, blobs, opened, strict=True):
        answer = plain if isinstance(plain, AccountStoreError) else blob
        results[member.place] = result_of(member.ref, partial(_compared, copied, done.data, tells_writers), answer)


def _compared(copied: Copied, data: bytes, tells_writers: bool, blob: Blob, /) -> Copied:
    """Equal bytes are equal documents: they were decoded before they were written."""
    if blob.data != data and (blob.version == copied.version or not tells_writers):
        raise BackendError("what was read back is not what was written")
    return replace(copied, verified=blob.version == copied.version)


def _is_md5_of(data: bytes, version: Version, /) -> bool:
    from hashlib import md5

    return version.token.strip('"') == md5(data, usedforsecurity=False).hexdigest()

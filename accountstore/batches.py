"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from accountstore.backends.base import Blob, Stat, Version, Write, WriteMode
from accountstore.errors import AccountStoreError
from accountstore.events import EventLog
from accountstore.location import Located, Location
from accountstore.model import Document
from accountstore.retry import condition_of
from accountstore.scope import Resolver
from accountstore.secrets import without_frames
from accountstore.storage import DocumentRef, Opened, Storage, Stored, stored
from accountstore.turns import LARGE
from accountstore.windows import Item, Member, Results, Windows, itself, location_of, result_of, results_of

T = TypeVar("T")


def open_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, Opened[Document] | AccountStoreError]]:
    """Each location within reach with its document as it was read, or its error, in order. Each is an event."""
    return results_of(_reads(resolver, log, locations, concurrency), itself)


def get_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, Stored[Document] | AccountStoreError]]:
    """Each location within reach with its document or its error, in order. Each is an event."""
    return results_of(_reads(resolver, log, locations, concurrency), attrgetter("stored"))


def save_many(
    resolver: Resolver,
    log: EventLog,
    documents: Iterable[tuple[Location, Document]],
    mode: WriteMode,
    concurrency: int,
    /,
) -> AsyncIterator[tuple[Location, Version | AccountStoreError]]:
    """Each location within reach with its document's new version or its error, in order. Each is an event."""
    if mode != "overwrite":
        condition_of(mode)
    items = _saved_items(iter(documents), mode)
    windows = Windows(resolver, log, "save_many", items, _save, concurrency)
    return results_of(windows, attrgetter("version"))


def _reads(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> Windows[None, Opened[Document]]:
    if isinstance(locations, Location):
        raise TypeError("get_many takes several locations: get_many([location])")
    items = (Item(location_of(at), None) for at in locations)
    return Windows(resolver, log, "get_many", items, read, concurrency)


def _saved_items(documents: Iterator[Any], mode: WriteMode, /) -> Iterator[Item[Document]]:
    pair: Any = None
    try:
        for pair in documents:
            yield _saved_item(pair, mode)
    finally:
        del pair  # which no frame is to show


@without_frames
def _saved_item(pair: Any, mode: WriteMode, /) -> Item[Document]:
    try:
        location, document = pair
    except (TypeError, ValueError):
        raise TypeError("save_many takes pairs of a Location and a document") from None
    return Item(location_of(location), document, mode)


async def read(
    storage: Storage, members: Sequence[Member[T]], results: Results[Opened[Document]], at_once: int, /
) -> None:
    """Read and open documents of one storage."""
    keys = [member.ref.key for member in members]
    blobs = await storage.client.read_many(keys, at_once=at_once)
    if storage.sealer is not None:
        blobs = await storage.sealer.open_many(keys, blobs)
    turns = storage.turns
    for member, blob in zip(members, blobs, strict=True):
        await turns.take(len(blob.data) if isinstance(blob, Blob) else 0)
        results[member.place] = result_of(member.ref, partial(_open, member.ref), blob)


def _open(ref: DocumentRef, blob: Blob, /) -> Opened[Document]:
    return ref.storage.open(ref.key, blob, ref.kind)


async def _save(
    storage: Storage, members: Sequence[Member[Document]], results: Results[Stored[Document]], at_once: int, /
) -> None:
    for member, _, stat in await write(storage, members, _encoded, results, at_once):
        results[member.place] = result_of(member.ref, partial(stored, member.given), stat)


def _encoded(member: Member[Document], /) -> bytes:
    return member.ref.storage.encode(member.given, member.ref.kind)


async def write(
    storage: Storage,
    members: Sequence[Member[T]],
    bytes_of: Callable[[Member[T]], bytes],
    results: Results[Any],
    at_once: int,
    /,
) -> list[tuple[Member[T], Write, Stat | AccountStoreError]]:
    """Write the documents that can be written; each with what the storage answered."""
    writes: list[Write] = []
    written: list[Member[T]] = []
    turns = storage.turns
    for member in members:
        ref, mode = member.ref, member.mode
        try:
            if mode != "overwrite":
                await ref.renewed().require_mode(mode)
            await turns.take()
            with Located(ref.location):
                writes.append(Write(ref.key, bytes_of(member), mode))
        except AccountStoreError as error:
            results[member.place] = error.with_traceback(None)
            turns.used(LARGE)  # as far as anybody knows
        else:
            written.append(member)
            turns.used(len(writes[-1].data))
    if storage.sealer is not None:
        try:
            writes = await storage.sealer.seal_many(writes)
        except AccountStoreError as error:
            return [(member, unsealed, error) for member, unsealed in zip(written, writes, strict=True)]
    return list(zip(written, writes, await storage.client.write_many(writes, at_once=at_once), strict=True))

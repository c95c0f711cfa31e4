"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from operator import attrgetter
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import anyio
from anyio.lowlevel import checkpoint
from msgspec import Struct
from msgspec.structs import replace

from accountstore.aio.pages import items_of
from accountstore.backends.base import Blob, Stat, Version, Write, WriteMode
from accountstore.client import condition_of
from accountstore.errors import AccountStoreError, BackendError, LocationError
from accountstore.events import EventLog, Operation, Retries
from accountstore.location import NO_LOCATION, Located, Location
from accountstore.model import Document
from accountstore.scope import Resolver
from accountstore.storage import DocumentRef, Opened, Storage, Stored, stored

_WINDOW = 8
_STRETCH = 65_536
"""How many bytes are encoded or decoded before other tasks have their turn."""

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

Proof: TypeAlias = Literal["none", "write", "read"]
"""How a copy is verified: `"read"`, it is read back; `"write"`, by the MD5 that the storage answers the write with as
its version, as S3 does, or else it is read back; `"none"`.
"""


class Copy(NamedTuple):
    """A document for `copy_many`. A tuple of the first two, or of all three, will do."""

    source: Location
    target: Location
    mode: WriteMode = "overwrite"


class Copied(Struct, frozen=True):
    """A document that `copy_many` has copied: the versions of both ends, and the bytes written.

    `verified` is False where it was not to be verified, and where another writer has changed the target meanwhile.
    """

    source_version: Version
    version: Version
    size: int
    verified: bool = False


class _Item(NamedTuple, Generic[T]):
    """One item of a window: where it is read or written, what is written, how, and from where it is copied."""

    at: Location
    given: T
    mode: WriteMode = "overwrite"
    source: Location | None = None


class _Member(NamedTuple, Generic[T]):
    """The item at a place of a window, its locations resolved."""

    place: int
    ref: DocumentRef
    given: T
    mode: WriteMode
    source: DocumentRef | None


_Results: TypeAlias = "dict[int, A | AccountStoreError]"
_Work: TypeAlias = "Callable[[Storage, Sequence[_Member[T]], _Results[A], int], Awaitable[None]]"
"""Does what is to be done with documents of one storage, and puts the results at their places; so many requests at a
time where the backend takes one document each."""


def open_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, Opened[Document] | AccountStoreError]]:
    """Each location within reach with its document as it was read, or its error, in order. Each is an event."""
    return _results(_reads(resolver, log, locations, concurrency), _itself)


def get_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, Stored[Document] | AccountStoreError]]:
    """Each location within reach with its document or its error, in order. Each is an event."""
    return _results(_reads(resolver, log, locations, concurrency), attrgetter("stored"))


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
    items = (_saved_item(document, mode) for document in documents)
    windows = _Windows(resolver, log, "save_many", items, _save, concurrency)
    return _results(windows, attrgetter("version"))


def copy_many(
    resolver: Resolver,
    log: EventLog,
    copies: Iterable[tuple[Location, Location] | tuple[Location, Location, WriteMode]],
    verify: Proof,
    concurrency: int,
    /,
) -> AsyncIterator[tuple[Location, Copied | AccountStoreError]]:
    """Each source within reach with what became of its copy, in order. Each is an event."""
    if verify not in get_args(Proof):
        raise ValueError("verify must be 'none', 'write' or 'read'")
    items = (_copied_item(each) for each in copies)
    windows = _Windows(resolver, log, "copy_many", items, partial(_copy, verify), concurrency)
    return _results(windows, _itself)


def _results(
    windows: _Windows[T, A], shown: Callable[[A], B], /
) -> AsyncIterator[tuple[Location, B | AccountStoreError]]:
    """The results of all windows, each with its location: of a success, what is `shown`."""

    async def next_results() -> list[tuple[Location, B | AccountStoreError]] | None:
        window = await windows.next()
        if window is None:
            return None
        return [
            (item.source or item.at, result if isinstance(result, AccountStoreError) else shown(result))
            for item, result in window
        ]

    return items_of(next_results)


def _itself(result: A, /) -> A:
    return result


def _reads(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> _Windows[None, Opened[Document]]:
    if isinstance(locations, Location):
        raise TypeError("get_many takes several locations: get_many([location])")
    items = (_Item(_location_of(at), None) for at in locations)
    return _Windows(resolver, log, "get_many", items, _read, concurrency)


def _location_of(location: object, /) -> Location:
    if not isinstance(location, Location):
        raise TypeError(NO_LOCATION)
    return location


def _saved_item(pair: Any, mode: WriteMode, /) -> _Item[Document]:
    try:
        location, document = pair
    except (TypeError, ValueError):
        raise TypeError("save_many takes pairs of a Location and a document") from None
    return _Item(_location_of(location), document, mode)


def _copied_item(given: Any, /) -> _Item[None]:
    try:
        source, target, mode = Copy(*given)
    except TypeError:
        raise TypeError("copy_many takes pairs of Locations, source and target, or a Copy each") from None
    if mode != "overwrite":
        condition_of(mode)
    return _Item(_location_of(target), None, mode, _location_of(source))


class _Windows(Generic[T, A]):
    """Items a window at a time: as many as `concurrency` batches of the last one's storage hold."""

    def __init__(
        self,
        resolver: Resolver,
        log: EventLog,
        name: str,
        items: Iterable[_Item[T]],
        work: _Work[T, A],
        concurrency: int,
        /,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._resolver = resolver
        self._log = log
        self._name = name
        self._items = iter(items)
        self._work = work
        self._concurrency = concurrency
        self._window: list[_Item[T]] = []

    async def next(self) -> list[tuple[_Item[T], A | AccountStoreError]] | None:
        """The next window, or again the one whose call was cancelled; None: there is no more."""
        window = self._window or self._fill()
        if not window:
            return None
        started = time.perf_counter()
        results: _Results[A] = {}
        retries: dict[int, tuple[str, ...]] = {}
        await self._spread(window, results, retries)
        self._window = []
        if self._log.is_heard():
            seconds = time.perf_counter() - started
            for place, item in enumerate(window):
                self._emit(item, results[place], retries.get(place, ()), seconds)
        return [(item, results[place]) for place, item in enumerate(window)]

    def _emit(self, item: _Item[T], result: Any, retries: tuple[str, ...], seconds: float, /) -> None:
        source, target = (item.at, None) if item.source is None else (item.source, item.at)
        operation = Operation(self._log, self._name, source, target, retries=retries)
        outcome = "ok"
        if isinstance(result, AccountStoreError):
            outcome = type(result).__name__
        else:
            operation.record(result)
        self._log.emit(operation, outcome, seconds)

    def _fill(self) -> list[_Item[T]]:
        for item in self._items:
            self._window.append(item)
            try:
                batch = self._resolver.storage(item.at.storage).client.capabilities.batch
            except LocationError:
                continue
            if len(self._window) >= self._concurrency * max(_WINDOW, batch):
                break
        return self._window

    async def _spread(
        self, window: Sequence[_Item[T]], results: _Results[A], retries: dict[int, tuple[str, ...]], /
    ) -> None:
        """Do the work: a batch of a storage's backend at once, `concurrency` batches at a time."""
        by_storage: dict[Storage, list[_Member[T]]] = {}
        for place, item in enumerate(window):
            try:
                member = self._member(place, item)
            except AccountStoreError as error:
                results[place] = error.with_traceback(None)
            else:
                by_storage.setdefault(member.ref.storage, []).append(member)
        turn = anyio.CapacityLimiter(self._concurrency)

        async def work(storage: Storage, members: Sequence[_Member[T]], at_once: int) -> None:
            async with turn:
                with Retries() as batch:
                    await self._work(storage, members, results, at_once)
                if batch.retries:
                    retries.update((member.place, batch.retries) for member in members)

        async with anyio.create_task_group() as tasks:
            for storage, members in by_storage.items():
                size = storage.client.capabilities.batch
                if size > 1:  # a folder's documents together: a batch opens each of its folders
                    members.sort(key=lambda member: member.ref.folder)
                at_once = 1
                if size == 1 and any(map(_asks_a_service, members)):
                    size, at_once = len(members), self._concurrency  # so that a key service is asked once
                for start in range(0, len(members), size):
                    tasks.start_soon(work, storage, members[start : start + size], at_once)

    def _member(self, place: int, item: _Item[T], /) -> _Member[T]:
        if item.source is None:
            return _Member(place, self._resolver.ref(item.at), item.given, item.mode, None)
        source, target = self._resolver.pair(item.source, item.at)
        return _Member(place, target, item.given, item.mode, source)


def _asks_a_service(member: _Member[Any], /) -> bool:
    """Whether a service unwraps or wraps the key of a document."""
    sealers = (ref.storage.sealer for ref in (member.ref, member.source) if ref is not None)
    return any(sealer is not None and sealer.ring.remote for sealer in sealers)


async def _read(
    storage: Storage, members: Sequence[_Member[T]], results: _Results[Opened[Document]], at_once: int, /
) -> None:
    keys = [member.ref.key for member in members]
    blobs = await storage.client.read_many(keys, at_once=at_once)
    if storage.sealer is not None:
        blobs = await storage.sealer.open_many(keys, blobs, storage.client.deadline())
    stretch = 0
    for member, blob in zip(members, blobs, strict=True):
        results[member.place] = _result(member.ref, partial(_open, member.ref), blob)
        stretch += blob.stat.size if isinstance(blob, Blob) else 0
        if stretch >= _STRETCH:
            stretch = 0
            await checkpoint()


def _open(ref: DocumentRef, blob: Blob, /) -> Opened[Document]:
    return ref.storage.open(blob, ref.kind)


async def _save(
    storage: Storage, members: Sequence[_Member[Document]], results: _Results[Stored[Document]], at_once: int, /
) -> None:
    for member, _, stat in await _write(storage, members, _encoded, results, at_once):
        results[member.place] = _result(member.ref, partial(stored, member.given), stat)


def _encoded(member: _Member[Document], /) -> bytes:
    return member.ref.storage.encode(member.given, member.ref.kind)


async def _copy(
    verify: Proof, storage: Storage, members: Sequence[_Member[None]], results: _Results[Copied], at_once: int, /
) -> None:
    opened = await _opened(members, results, at_once)
    unproven: list[tuple[_Member[Opened[Document]], Write, Copied]] = []
    for member, write, stat in await _write(storage, opened, _transcoded, results, at_once):
        result = _result(member.ref, partial(_copied, member.given), stat)
        if isinstance(result, Copied) and verify != "none":
            if verify == "write" and _is_md5_of(write.data, result.version):
                result = replace(result, verified=True)
            else:
                unproven.append((member, write, result))
        results[member.place] = result
    if unproven:
        await _read_back(storage, unproven, results, at_once)


async def _opened(
    members: Sequence[_Member[None]], results: _Results[Any], at_once: int, /
) -> list[_Member[Opened[Document]]]:
    """The members with their sources' documents, those that can be read."""
    by_storage: dict[Storage, list[_Member[None]]] = {}
    for member in members:
        if member.source is not None:
            found = member._replace(ref=member.source)
            by_storage.setdefault(found.ref.storage, []).append(found)
    sources: _Results[Opened[Document]] = {}
    for storage, group in by_storage.items():
        await _read(storage, group, sources, at_once)
    opened: list[_Member[Opened[Document]]] = []
    for member in members:
        source = sources[member.place]
        if isinstance(source, AccountStoreError):
            results[member.place] = source
        else:
            opened.append(_Member(member.place, member.ref, source, member.mode, member.source))
    return opened


def _transcoded(member: _Member[Opened[Document]], /) -> bytes:
    source = member.source or member.ref
    return member.ref.storage.transcode(member.given.plain, source.storage.codec, member.ref.kind)


def _copied(opened: Opened[Document], stat: Stat, /) -> Copied:
    written = stored(None, stat)
    return Copied(opened.stored.version, written.version, written.size)


async def _read_back(
    storage: Storage,
    written: Sequence[tuple[_Member[Opened[Document]], Write, Copied]],
    results: _Results[Copied],
    at_once: int,
    /,
) -> None:
    """Compare what was written with what is there."""
    blobs = await storage.client.read_many([write.key for _, write, _ in written], at_once=at_once)
    for (member, write, copied), blob in zip(written, blobs, strict=True):
        results[member.place] = _result(member.ref, partial(_compared, copied, write.data), blob)


def _compared(copied: Copied, data: bytes, blob: Blob, /) -> Copied:
    """Equal bytes are equal documents: they were decoded before they were written."""
    if blob.data != data and blob.version == copied.version:
        raise BackendError("what was read back is not what was written")
    return replace(copied, verified=blob.version == copied.version)


def _is_md5_of(data: bytes, version: Version, /) -> bool:
    from hashlib import md5

    return version.token.strip('"') == md5(data, usedforsecurity=False).hexdigest()


async def _write(
    storage: Storage,
    members: Sequence[_Member[T]],
    bytes_of: Callable[[_Member[T]], bytes],
    results: _Results[Any],
    at_once: int,
    /,
) -> list[tuple[_Member[T], Write, Stat | AccountStoreError]]:
    """Write the documents that can be written; each with what the storage answered."""
    writes: list[Write] = []
    written: list[_Member[T]] = []
    stretch = 0
    for member in members:
        ref, mode = member.ref, member.mode
        try:
            if mode != "overwrite":
                await ref.require(condition_of(mode))
            with Located(ref.location):
                writes.append(Write(ref.key, bytes_of(member), mode))
        except AccountStoreError as error:
            results[member.place] = error.with_traceback(None)
        else:
            written.append(member)
            stretch += len(writes[-1].data)
        if stretch >= _STRETCH:
            stretch = 0
            await checkpoint()
    if storage.sealer is not None:
        try:
            writes = await storage.sealer.seal_many(writes, storage.client.deadline())
        except AccountStoreError as error:
            return [(member, write, error) for member, write in zip(written, writes, strict=True)]
    return list(zip(written, writes, await storage.client.write_many(writes, at_once=at_once), strict=True))


def _result(ref: DocumentRef, take: Callable[[A], B], answer: A | AccountStoreError, /) -> B | AccountStoreError:
    """What `take` makes of a storage's answer, or the error, about the document's location."""
    try:
        with Located(ref.location):
            if isinstance(answer, AccountStoreError):
                raise copy(answer)  # one error may stand for many documents
            return take(answer)
    except AccountStoreError as error:
        return error.with_traceback(None)

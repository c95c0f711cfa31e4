"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from itertools import repeat
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from accountstore.aio.pages import items_of
from accountstore.backends.base import Blob, Stat, Version, Write, WriteMode
from accountstore.client import condition_of
from accountstore.errors import AccountStoreError, LocationError
from accountstore.events import EventLog, Operation
from accountstore.location import NO_LOCATION, Located, Location
from accountstore.model import Document
from accountstore.scope import Resolver
from accountstore.storage import DocumentRef, Storage, Stored, stored

_WINDOW = 8
_STRETCH = 65_536
"""How many bytes are encoded or decoded before other tasks have their turn."""

T = TypeVar("T")
A = TypeVar("A")
_Result: TypeAlias = "Stored[Document] | AccountStoreError"


class _Member(NamedTuple, Generic[T]):
    """One item of a window: its place there, and what is to be written, if anything."""

    place: int
    ref: DocumentRef
    document: T


_Work: TypeAlias = "Callable[[Storage, Sequence[_Member[T]], dict[int, _Result], int], Awaitable[None]]"
"""Does what is to be done with documents of one storage, and puts the results at their places; so many requests at a
time where the backend takes one document each."""


def get_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, _Result]]:
    """Each location within reach with its document or its error, in order. Each is an event."""
    if isinstance(locations, Location):
        raise TypeError("get_many takes several locations: get_many([location])")
    items = zip(locations, repeat(None), strict=False)
    return items_of(_Windows(resolver, log, "get_many", items, _read, concurrency).next)


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
    windows = _Windows(resolver, log, "save_many", documents, partial(_write, mode), concurrency)

    async def next_versions() -> list[tuple[Location, Version | AccountStoreError]] | None:
        window = await windows.next()
        if window is None:
            return None
        return [(at, found.version if isinstance(found, Stored) else found) for at, found in window]

    return items_of(next_versions)


class _Windows(Generic[T]):
    """Items a window at a time: as many as `concurrency` batches of the last one's storage hold."""

    def __init__(
        self,
        resolver: Resolver,
        log: EventLog,
        name: str,
        items: Iterable[tuple[Location, T]],
        work: _Work[T],
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
        self._window: list[tuple[Location, T]] = []

    async def next(self) -> list[tuple[Location, _Result]] | None:
        """The next window, or again the one whose call was cancelled; None: there is no more."""
        window = self._window or self._fill()
        if not window:
            return None
        started = time.perf_counter()
        results = await self._spread(window)
        self._window = []
        seconds = time.perf_counter() - started
        if self._log.is_heard():
            for location, result in results:
                operation = Operation(self._log, self._name, location)
                outcome = "ok"
                if isinstance(result, Stored):
                    operation.record(result)
                else:
                    outcome = type(result).__name__
                self._log.emit(operation, outcome, seconds)
        return results

    def _fill(self) -> list[tuple[Location, T]]:
        for item in self._items:
            location = _location_of(item)
            self._window.append(item)
            try:
                batch = self._resolver.storage(location.storage).client.capabilities.batch
            except LocationError:
                continue
            if len(self._window) >= self._concurrency * max(_WINDOW, batch):
                break
        return self._window

    async def _spread(self, window: Sequence[tuple[Location, T]], /) -> list[tuple[Location, _Result]]:
        """Do the work: a batch of a storage's backend at once, `concurrency` batches at a time."""
        results: dict[int, _Result] = {}
        by_storage: dict[Storage, list[_Member[T]]] = {}
        for place, (location, document) in enumerate(window):
            try:
                ref = self._resolver.ref(location)
            except AccountStoreError as error:
                results[place] = error.with_traceback(None)
            else:
                by_storage.setdefault(ref.storage, []).append(_Member(place, ref, document))
        turn = anyio.CapacityLimiter(self._concurrency)

        async def work(storage: Storage, members: Sequence[_Member[T]], at_once: int) -> None:
            async with turn:
                await self._work(storage, members, results, at_once)

        async with anyio.create_task_group() as tasks:
            for storage, members in by_storage.items():
                size = storage.client.capabilities.batch
                if size > 1:  # a folder's documents together: a batch opens each of its folders
                    members.sort(key=lambda member: member.ref.folder)
                at_once = 1
                if size == 1 and storage.sealer is not None and storage.sealer.ring.remote:
                    size, at_once = len(members), self._concurrency  # so that a key service is asked once
                for start in range(0, len(members), size):
                    tasks.start_soon(work, storage, members[start : start + size], at_once)
        return [(location, results[place]) for place, (location, _) in enumerate(window)]


def _location_of(item: Any, /) -> Location:
    try:
        location, _ = item
    except (TypeError, ValueError):
        raise TypeError("save_many takes pairs of a Location and a document") from None
    if not isinstance(location, Location):
        raise TypeError(NO_LOCATION)
    return location


async def _read(
    storage: Storage, members: Sequence[_Member[None]], results: dict[int, _Result], at_once: int, /
) -> None:
    keys = [member.ref.key for member in members]
    blobs = await storage.client.read_many(keys, at_once=at_once)
    if storage.sealer is not None:
        blobs = await storage.sealer.open_many(keys, blobs, storage.client.deadline())
    stretch = 0
    for (place, ref, _), blob in zip(members, blobs, strict=True):
        results[place] = _result(ref, partial(_open, ref), blob)
        stretch += blob.stat.size if isinstance(blob, Blob) else 0
        if stretch >= _STRETCH:
            stretch = 0
            await checkpoint()


def _open(ref: DocumentRef, blob: Blob, /) -> Stored[Document]:
    return ref.storage.open(blob, ref.kind).stored


async def _write(
    mode: WriteMode,
    storage: Storage,
    members: Sequence[_Member[Document]],
    results: dict[int, _Result],
    at_once: int,
    /,
) -> None:
    writes: list[Write] = []
    written: list[_Member[Document]] = []
    stretch = 0
    for member in members:
        place, ref, document = member
        try:
            if mode != "overwrite":
                await ref.require(condition_of(mode))
            with Located(ref.location):
                writes.append(Write(ref.key, storage.encode(document, ref.kind), mode))
        except AccountStoreError as error:
            results[place] = error.with_traceback(None)
        else:
            written.append(member)
            stretch += len(writes[-1].data)
        if stretch >= _STRETCH:
            stretch = 0
            await checkpoint()
    stats = await _write_all(storage, writes, at_once)
    for (place, ref, document), stat in zip(written, stats, strict=True):
        results[place] = _result(ref, partial(stored, document), stat)


async def _write_all(storage: Storage, writes: Sequence[Write], at_once: int, /) -> Sequence[Stat | AccountStoreError]:
    """Seal, where the storage is sealed, and write."""
    if storage.sealer is not None:
        try:
            writes = await storage.sealer.seal_many(writes, storage.client.deadline())
        except AccountStoreError as error:
            return [error.with_traceback(None)] * len(writes)
    return await storage.client.write_many(writes, at_once=at_once)


def _result(ref: DocumentRef, take: Callable[[A], Stored[Document]], answer: A | AccountStoreError, /) -> _Result:
    """What `take` makes of a storage's answer, or the error, about the document's location."""
    try:
        with Located(ref.location):
            if isinstance(answer, AccountStoreError):
                raise copy(answer)  # one error may stand for many documents
            return take(answer)
    except AccountStoreError as error:
        return error.with_traceback(None)

"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from operator import itemgetter
from typing import Generic, TypeAlias, TypeVar

import anyio

from accountstore.aio.pages import items_of
from accountstore.backends.base import Blob, Stat, Version, Write, WriteMode
from accountstore.client import condition_of
from accountstore.errors import AccountStoreError, LocationError
from accountstore.events import EventLog, Operation
from accountstore.location import Located, Location
from accountstore.model import Document
from accountstore.scope import Resolver
from accountstore.storage import DocumentRef, Storage, Stored, stored

_WINDOW = 8

T = TypeVar("T")
_Member: TypeAlias = "tuple[int, DocumentRef]"
_Result: TypeAlias = "Stored[Document] | AccountStoreError"


def get_many(
    resolver: Resolver, log: EventLog, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, _Result]]:
    """Each location within reach with its document or its error, in order. Each is an event."""
    windows = _Windows(resolver, locations, _itself, concurrency)
    return items_of(partial(_get_window, resolver, log, windows))


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
    windows = _Windows(resolver, documents, itemgetter(0), concurrency)
    return items_of(partial(_save_window, resolver, log, windows, mode))


def _itself(location: Location, /) -> Location:
    return location


class _Windows(Generic[T]):
    """Items a window at a time: as many as `concurrency` batches of the last one's storage hold."""

    def __init__(
        self, resolver: Resolver, items: Iterable[T], locate: Callable[[T], Location], concurrency: int, /
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self.concurrency: int = concurrency
        self._resolver = resolver
        self._items = iter(items)
        self._locate = locate
        self._window: list[T] = []

    def open(self) -> list[T]:
        """The next window; or again the one that was not closed, as its call was cancelled. Empty: there is no more."""
        if not self._window:
            for item in self._items:
                self._window.append(item)
                try:
                    batch = self._resolver.storage(self._locate(item).storage).client.capabilities.batch
                except LocationError:
                    continue
                if len(self._window) >= self.concurrency * max(_WINDOW, batch):
                    break
        return self._window.copy()

    def close(self) -> None:
        """The window is done."""
        self._window.clear()


async def _get_window(
    resolver: Resolver, log: EventLog, windows: _Windows[Location], /
) -> list[tuple[Location, _Result]] | None:
    locations = windows.open()
    if not locations:
        return None
    started = time.perf_counter()
    results = await _spread(resolver, locations, _read, windows.concurrency)
    windows.close()
    _emit(log, "get_many", locations, results, time.perf_counter() - started)
    return list(zip(locations, results, strict=True))


async def _save_window(
    resolver: Resolver, log: EventLog, windows: _Windows[tuple[Location, Document]], mode: WriteMode, /
) -> list[tuple[Location, Version | AccountStoreError]] | None:
    window = windows.open()
    if not window:
        return None
    locations = [location for location, _ in window]
    write = partial(_write, [document for _, document in window], mode)
    started = time.perf_counter()
    results = await _spread(resolver, locations, write, windows.concurrency)
    windows.close()
    _emit(log, "save_many", locations, results, time.perf_counter() - started)
    versions = [result if isinstance(result, AccountStoreError) else result.version for result in results]
    return list(zip(locations, versions, strict=True))


async def _spread(
    resolver: Resolver,
    locations: Sequence[Location],
    work: Callable[[Storage, Sequence[_Member]], Awaitable[Sequence[_Result]]],
    concurrency: int,
    /,
) -> list[_Result]:
    """Call `work` with documents of one storage: a batch of its backend, `concurrency` at a time."""
    results: dict[int, _Result] = {}
    by_storage: dict[Storage, list[_Member]] = {}
    for i, location in enumerate(locations):
        try:
            ref = resolver.ref(location)
        except AccountStoreError as error:
            results[i] = error.with_traceback(None)
        else:
            by_storage.setdefault(ref.storage, []).append((i, ref))
    turn = anyio.CapacityLimiter(concurrency)
    async with anyio.create_task_group() as tasks:
        for storage, members in by_storage.items():
            size = storage.client.capabilities.batch
            if size > 1:  # a folder's documents together: a batch opens each of its folders
                members.sort(key=_folder)
            for start in range(0, len(members), size):
                tasks.start_soon(_in_turn, turn, work, storage, members[start : start + size], results)
    return [results[i] for i in range(len(locations))]


def _folder(member: _Member, /) -> str:
    return member[1].folder


async def _in_turn(
    turn: anyio.CapacityLimiter,
    work: Callable[[Storage, Sequence[_Member]], Awaitable[Sequence[_Result]]],
    storage: Storage,
    members: Sequence[_Member],
    results: dict[int, _Result],
    /,
) -> None:
    async with turn:
        for (i, _), result in zip(members, await work(storage, members), strict=True):
            results[i] = result


async def _read(storage: Storage, members: Sequence[_Member], /) -> list[_Result]:
    """The document of each member, or its error."""
    blobs = await storage.client.read_many([ref.key for _, ref in members])
    return [_result(ref, _decode, blob) for (_, ref), blob in zip(members, blobs, strict=True)]


def _decode(ref: DocumentRef, blob: Blob, /) -> Stored[Document]:
    return ref.storage.open(blob, ref.kind).stored


async def _write(
    documents: Sequence[Document], mode: WriteMode, storage: Storage, members: Sequence[_Member], /
) -> list[_Result]:
    """What became of each member's document, which stands in `documents` at the member's number."""
    results: dict[int, _Result] = {}
    writes: dict[int, Write] = {}
    for i, ref in members:
        try:
            if mode != "overwrite":
                await ref.require(condition_of(mode))
            with Located(ref.location):
                writes[i] = Write(ref.key, storage.encode(documents[i], ref.kind), mode)
        except AccountStoreError as error:
            results[i] = error.with_traceback(None)
    stats = dict(zip(writes, await storage.client.write_many(list(writes.values())), strict=True))
    return [
        results[i] if i in results else _result(ref, partial(_stored, documents[i]), stats[i]) for i, ref in members
    ]


def _stored(document: Document, _: DocumentRef, stat: Stat, /) -> Stored[Document]:
    return stored(document, stat)


def _result(
    ref: DocumentRef, read: Callable[[DocumentRef, T], Stored[Document]], outcome: T | AccountStoreError, /
) -> _Result:
    """What `read` makes of a storage's answer, or the error, about the document's location."""
    try:
        with Located(ref.location):
            if isinstance(outcome, AccountStoreError):
                raise copy(outcome)  # one error may stand for many documents
            return read(ref, outcome)
    except AccountStoreError as error:
        return error.with_traceback(None)


def _emit(
    log: EventLog, name: str, locations: Sequence[Location], results: Sequence[_Result], seconds: float, /
) -> None:
    """An event for each document of a window."""
    if not log.is_heard():
        return
    for location, result in zip(locations, results, strict=True):
        operation = Operation(log, name, location)
        if isinstance(result, AccountStoreError):
            log.emit(operation, type(result).__name__, seconds)
        else:
            operation.record(result)
            log.emit(operation, "ok", seconds)

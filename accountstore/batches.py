"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

from collections import deque
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import anyio

from accountstore.attempts import ask, within
from accountstore.backends.base import Stat, Write, each
from accountstore.errors import AccountStoreError, LocationError, UnavailableError, UncertainError
from accountstore.events import Stopwatch
from accountstore.storage import check_mode, known

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableSequence, Sequence

    from accountstore.backends.base import Blob, Version, WriteMode
    from accountstore.location import Location
    from accountstore.model import Document
    from accountstore.reach import Reach
    from accountstore.storage import Place, Storage, Stored

__all__ = ("Batches", "get_many", "save_many")

_WINDOW = 8

T = TypeVar("T")
_Places: TypeAlias = "Sequence[Place | AccountStoreError]"
_Members: TypeAlias = "list[tuple[int, Place]]"


class Batches(Generic[T]):
    """The items of batches that are fetched one after another; an empty batch is the end.

    Not an async generator: it holds nothing between two items, so it may be dropped anywhere, on any event loop.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Iterable[T]]], /) -> None:
        self._fetch = fetch
        self._items: deque[T] = deque()

    def __aiter__(self) -> Batches[T]:
        return self

    async def __anext__(self) -> T:
        if not self._items:
            self._items.extend(await self._fetch())
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()


def get_many(
    reach: Reach, locations: Iterable[Location], concurrency: int, /
) -> AsyncIterator[tuple[Location, Stored[Document] | AccountStoreError]]:
    """Each location within reach with its document or its error, in order. Each is an event."""
    _check_concurrency(concurrency)
    rest = iter(locations)
    waiting: list[Location] = []

    async def next_window() -> Iterable[tuple[Location, Stored[Document] | AccountStoreError]]:
        if not waiting:  # else they are those of a call that was cancelled
            _fill(reach, waiting, rest, concurrency, lambda at: at)
        window = waiting.copy()
        with Stopwatch() as watch:
            results = await _read_window([reach.place_or_error(at) for at in window], concurrency)
        waiting.clear()
        reach.report("get_many", window, results, watch.seconds)
        return zip(window, results, strict=True)

    return Batches(next_window)


def save_many(
    reach: Reach, documents: Iterable[tuple[Location, Document]], mode: WriteMode, concurrency: int, /
) -> AsyncIterator[tuple[Location, Version | AccountStoreError]]:
    """Each location within reach with its document's new version or its error, in order. Each is an event."""
    check_mode(mode)
    _check_concurrency(concurrency)
    rest = iter(documents)
    waiting: list[tuple[Location, Document]] = []

    async def next_window() -> Iterable[tuple[Location, Version | AccountStoreError]]:
        if not waiting:  # else they are those of a call that was cancelled
            _fill(reach, waiting, rest, concurrency, itemgetter(0))
        window = waiting.copy()
        locations = [at for at, _ in window]
        places = [reach.place_or_error(at) for at in locations]
        with Stopwatch() as watch:
            results = await _write_window(places, [document for _, document in window], mode, concurrency)
        waiting.clear()
        reach.report("save_many", locations, results, watch.seconds)
        versions = [known(result) if isinstance(result, Stat) else result for result in results]
        return zip(locations, versions, strict=True)

    return Batches(next_window)


def _check_concurrency(concurrency: int, /) -> None:
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")


def _fill(
    reach: Reach,
    window: MutableSequence[T],
    items: Iterator[T],
    concurrency: int,
    place: Callable[[T], Location],
    /,
) -> None:
    """Take as many items as `concurrency` batches of the last one's storage hold."""
    for item in items:
        window.append(item)
        try:
            batch = reach.storage(place(item).storage).capabilities.batch
        except LocationError:
            continue
        if len(window) >= concurrency * max(_WINDOW, batch):
            break


async def _spread(places: _Places, work: Callable[[Storage, _Members], Awaitable[None]], concurrency: int, /) -> None:
    """Call `work` with places of one storage and their indices: a batch of its backend, `concurrency` at a time."""
    by_storage: dict[Storage, _Members] = {}
    for i, place in enumerate(places):
        if not isinstance(place, AccountStoreError):
            by_storage.setdefault(place.storage, []).append((i, place))
    turn = anyio.CapacityLimiter(concurrency)

    async def in_turn(storage: Storage, members: _Members) -> None:
        async with turn:
            await work(storage, members)

    async with anyio.create_task_group() as tasks:
        for storage, members in by_storage.items():
            size = storage.capabilities.batch
            if size > 1:  # a folder's documents together: a batch opens each of its folders
                members.sort(key=_folder)
            for start in range(0, len(members), size):
                tasks.start_soon(in_turn, storage, members[start : start + size])


def _folder(member: tuple[int, Place], /) -> str:
    return member[1].key.rpartition("/")[0]


async def _blobs(storage: Storage, members: _Members, /) -> Sequence[Blob | Exception]:
    """What a read of each place gives: all in one call of the backend where that pays."""
    if storage.capabilities.batch == 1:
        return await each(place.read() for _, place in members)
    keys = [place.key for _, place in members]
    read = partial(storage.backend.read_many, keys, limit=storage.limit)
    blobs = await ask(read, partial(storage.named, location=None), storage.policy)
    if isinstance(blobs, AccountStoreError):
        return [blobs] * len(members)
    return await each(_read_again(place, blob) for (_, place), blob in zip(members, blobs, strict=True))


async def _stats(storage: Storage, members: _Members, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
    """What each write gives, likewise."""
    if storage.capabilities.batch == 1:
        return await each(place.write(data, mode) for (_, place), (_, data, mode) in zip(members, writes, strict=True))

    async def write() -> Sequence[Stat | Exception]:
        try:
            return await storage.backend.write_many(writes) if writes else ()
        except Exception as error:  # noqa: BLE001 -- one error for all of the batch
            return [error] * len(writes)

    stats = await within(write, partial(storage.named, location=None), storage.policy)
    if isinstance(stats, AccountStoreError):
        return [stats] * len(writes)
    return await each(
        _write_again(place, data, mode, stat)
        for (_, place), (_, data, mode), stat in zip(members, writes, stats, strict=True)
    )


async def _read_again(place: Place, blob: Blob | Exception, /) -> Blob:
    """One document of a batch: by itself, where it failed for a while."""
    if not isinstance(blob, Exception):
        return blob
    failure = place.storage.named(blob, place.location)
    if failure.temporary and place.storage.policy.attempts > 1:
        return await place.read()
    raise failure


async def _write_again(place: Place, data: bytes, mode: WriteMode, stat: Stat | Exception, /) -> Stat:
    if not isinstance(stat, Exception):
        known(stat)
        return stat
    failure = place.storage.named(stat, place.location)
    if isinstance(failure, UnavailableError):
        if (mode == "overwrite" or not failure.sent) and place.storage.policy.attempts > 1:
            return await place.write(data, mode)
        if failure.sent:
            raise UncertainError(f"nobody knows whether it was done ({failure.message})")
    raise failure


async def _read_window(places: _Places, concurrency: int, /) -> list[Stored[Document] | AccountStoreError]:
    """The document at each place, or its error."""
    results: list[Stored[Document] | AccountStoreError | None] = [
        place if isinstance(place, AccountStoreError) else None for place in places
    ]

    async def read(storage: Storage, members: _Members) -> None:
        for (i, place), blob in zip(members, await _blobs(storage, members), strict=True):
            if isinstance(blob, Exception):
                results[i] = storage.named(blob, place.location)
                continue
            try:
                results[i] = place.decode(blob, place.kind)
            except AccountStoreError as error:
                results[i] = error.with_traceback(None)

    await _spread(places, read, concurrency)
    return [result for result in results if result is not None]


async def _write_window(
    places: _Places, documents: Sequence[Document], mode: WriteMode, concurrency: int, /
) -> list[Stat | AccountStoreError]:
    """The stat of each document when it is written, or its error."""
    results: list[Stat | AccountStoreError | None] = [
        place if isinstance(place, AccountStoreError) else None for place in places
    ]

    async def write(storage: Storage, members: _Members) -> None:
        chosen: _Members = []
        writes: list[Write] = []
        for i, place in members:
            try:
                await place.require(mode)
                writes.append(Write(place.key, place.encode(documents[i], place.kind), mode))
                chosen.append((i, place))
            except AccountStoreError as error:
                results[i] = error.with_traceback(None)
        stats = await _stats(storage, chosen, writes)
        for (i, place), stat in zip(chosen, stats, strict=True):
            results[i] = storage.named(stat, place.location) if isinstance(stat, Exception) else stat

    await _spread(places, write, concurrency)
    return [result for result in results if result is not None]

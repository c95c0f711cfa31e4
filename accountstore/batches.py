"""Many documents at a time: bounded windows of bounded batches, each document with its own result."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import anyio

from accountstore.backends.base import Write
from accountstore.errors import AccountStoreError, BackendError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from accountstore.backends.base import Stat, WriteMode
    from accountstore.model import Document
    from accountstore.storage import Place, Storage, Stored

__all__ = ("Batches", "read_window", "write_window")

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
            size = storage.backend.capabilities.batch
            if size > 1:  # a folder's documents together: a batch opens each of its folders
                members.sort(key=_folder)
            for start in range(0, len(members), size):
                tasks.start_soon(in_turn, storage, members[start : start + size])


def _folder(member: tuple[int, Place], /) -> str:
    return member[1].key.rpartition("/")[0]


async def read_window(places: _Places, concurrency: int, /) -> list[Stored[Document] | AccountStoreError]:
    """The document at each place, or its error."""
    results: list[Stored[Document] | AccountStoreError | None] = [
        place if isinstance(place, AccountStoreError) else None for place in places
    ]

    async def read(storage: Storage, members: _Members) -> None:
        try:
            blobs = await storage.backend.read_many([place.key for _, place in members], limit=storage.limit)
        except Exception as error:  # noqa: BLE001 -- one error for all of the batch
            blobs = [error] * len(members)
        for (i, place), blob in zip(members, blobs, strict=True):
            if isinstance(blob, Exception):
                results[i] = storage.named(blob, place.location)
                continue
            try:
                results[i] = place.decode(blob, place.kind)
            except AccountStoreError as error:
                results[i] = error.with_traceback(None)

    await _spread(places, read, concurrency)
    return [result for result in results if result is not None]


async def write_window(
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
                storage.require(mode, place.location)
                writes.append(Write(place.key, place.encode(documents[i], place.kind), mode))
                chosen.append((i, place))
            except AccountStoreError as error:
                results[i] = error.with_traceback(None)
        stats: Sequence[Stat | Exception] = ()
        try:
            stats = await storage.backend.write_many(writes) if writes else ()
        except Exception as error:  # noqa: BLE001 -- one error for all of the batch
            stats = [error] * len(chosen)
        for (i, place), stat in zip(chosen, stats, strict=True):
            if not isinstance(stat, Exception) and stat.version is None:
                stat = BackendError("the backend told no version")  # noqa: PLW2901 -- its result is an error
            results[i] = storage.named(stat, place.location) if isinstance(stat, Exception) else stat

    await _spread(places, write, concurrency)
    return [result for result in results if result is not None]

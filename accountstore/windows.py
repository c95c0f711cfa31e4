"""Windows of documents: cut into batches by storage, each document with a result of its own, in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import anyio

from accountstore.aio.callers import in_caller
from accountstore.aio.pages import items_of
from accountstore.backends.base import WriteMode
from accountstore.errors import AccountStoreError, LocationError
from accountstore.events import EventLog, Operation, Retries
from accountstore.location import NO_LOCATION, Location, locate
from accountstore.scope import Resolver
from accountstore.storage import DocumentRef, Storage

_WINDOW = 8
_FIRST = 128
"""Documents in a first window, whose size is not known."""
_MOST_BYTES = 8 * 1024 * 1024
"""Of the documents in a window, about: a thousand large ones would take much memory, and the garbage collector a tenth
of a second to look through."""

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class Item(NamedTuple, Generic[T]):
    """One item of a window: where it is read or written, what is written, how, and from where it is copied."""

    at: Location
    given: T
    mode: WriteMode = "overwrite"
    source: Location | None = None


class Member(NamedTuple, Generic[T]):
    """The item at a place of a window, its locations resolved."""

    place: int
    ref: DocumentRef
    given: T
    mode: WriteMode
    source: DocumentRef | None


Results: TypeAlias = "dict[int, A | AccountStoreError]"
Work: TypeAlias = "Callable[[Storage, Sequence[Member[T]], Results[A], int], Awaitable[None]]"
"""Does what is to be done with documents of one storage, and puts the results at their places; so many requests at a
time where the backend takes one document each."""


def results_of(
    windows: Windows[T, A], shown: Callable[[A], B], /
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


def itself(result: A, /) -> A:
    """A result as it is."""
    return result


def location_of(location: object, /) -> Location:
    """What a caller gave as a location. Raises `TypeError` where it is none."""
    if not isinstance(location, Location):
        raise TypeError(NO_LOCATION)
    return location


class Windows(Generic[T, A]):
    """Items a window at a time: as many as `concurrency` batches of the last one's storage hold, but no more than 8
    MiB where the documents are as large as those of the window before.
    """

    def __init__(
        self,
        resolver: Resolver,
        log: EventLog,
        name: str,
        items: Iterable[Item[T]],
        work: Work[T, A],
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
        self._window: list[Item[T]] = []
        self._most = max(concurrency, _FIRST)

    async def next(self) -> list[tuple[Item[T], A | AccountStoreError]] | None:
        """The next window, or again the one whose call was cancelled; None: there is no more."""
        window = self._window or await self._fill()
        if not window:
            return None
        started = time.perf_counter()
        results: Results[A] = {}
        retries: dict[int, tuple[str, ...]] = {}
        outcome = "ok"
        try:
            await self._spread(window, results, retries)
        except BaseException as error:
            outcome = type(error).__name__  # of those without a result, which may be written all the same
            raise
        finally:
            if self._log.is_heard():
                seconds = time.perf_counter() - started
                for place, item in enumerate(window):
                    self._emit(item, results.get(place), retries.get(place, ()), seconds, outcome)
        self._window = []
        self._measure(results.values())
        return [(item, results[place]) for place, item in enumerate(window)]

    def _measure(self, results: Iterable[Any], /) -> None:
        """How many documents the next window may have."""
        sizes = [result.size for result in results if not isinstance(result, AccountStoreError)]
        if sizes:
            self._most = max(self._concurrency, _MOST_BYTES * len(sizes) // max(1, sum(sizes)))

    def _emit(self, item: Item[T], result: Any, retries: tuple[str, ...], seconds: float, outcome: str, /) -> None:
        source, target = (item.at, None) if item.source is None else (item.source, item.at)
        operation = Operation(self._log, self._name, source, target, retries=retries)
        if isinstance(result, AccountStoreError):
            outcome = type(result).__name__
        elif result is not None:
            outcome = "ok"
            operation.record(result)
        self._log.emit(operation, outcome, seconds)

    async def _fill(self) -> list[Item[T]]:
        missing = min(self._most, self._concurrency * _WINDOW)
        while missing > 0:
            wanted = len(self._window) + missing
            await in_caller(partial(self._window.extend, islice(self._items, missing)))
            if not self._window:
                break
            try:  # also of a last window: the store may be closed
                batch = self._resolver.storage(self._window[-1].at.storage).client.capabilities.batch
            except LocationError:
                batch = 1
            if len(self._window) < wanted:
                break  # there are no more
            missing = min(self._most, self._concurrency * max(_WINDOW, batch)) - len(self._window)
        return self._window

    async def _spread(
        self, window: Sequence[Item[T]], results: Results[A], retries: dict[int, tuple[str, ...]], /
    ) -> None:
        """Do the work: a batch of a storage's backend at once, `concurrency` batches at a time."""
        by_storage: dict[Storage, list[Member[T]]] = {}
        for place, item in enumerate(window):
            try:
                member = self._member(place, item)
            except AccountStoreError as error:
                results[place] = error.with_traceback(None)
            else:
                by_storage.setdefault(member.ref.storage, []).append(member)
        turn = anyio.CapacityLimiter(self._concurrency)

        async def work(storage: Storage, members: Sequence[Member[T]], at_once: int) -> None:
            async with turn:
                with Retries() as batch:
                    await self._work(storage, members, results, at_once)
                if batch.retries:
                    retries[members[0].place] = batch.retries

        alone = {storage for storage, members in by_storage.items() if _is_one_batch(storage, members)}
        for storage in alone:
            await work(storage, by_storage.pop(storage), self._concurrency)
        batches: list[tuple[Storage, Sequence[Member[T]]]] = []
        for storage, members in by_storage.items():
            size = storage.client.capabilities.batch
            if size > 1:  # a folder's documents together: a batch opens each of its folders
                members.sort(key=lambda member: member.ref.folder)
            batches += [(storage, members[start : start + size]) for start in range(0, len(members), size)]
        async with anyio.create_task_group() as tasks:
            for storage, batch in batches:
                # The sources of a batch may be in a storage that reads them one by one.
                tasks.start_soon(work, storage, batch, max(1, self._concurrency // len(batches)))

    def _member(self, place: int, item: Item[T], /) -> Member[T]:
        if item.source is None:
            return Member(place, self._resolver.ref(item.at), item.given, item.mode, None)
        source, target = self._resolver.pair(item.source, item.at)
        return Member(place, target, item.given, item.mode, source)


def _is_one_batch(storage: Storage, members: Sequence[Member[Any]], /) -> bool:
    """Whether documents that a backend takes one by one are done in one go, so that a key service is asked once."""
    return storage.client.capabilities.batch == 1 and any(map(_asks_a_service, members))


def _asks_a_service(member: Member[Any], /) -> bool:
    """Whether a service unwraps or wraps the key of a document."""
    sealers = (ref.storage.sealer for ref in (member.ref, member.source) if ref is not None)
    return any(sealer is not None and sealer.ring.remote for sealer in sealers)


def result_of(ref: DocumentRef, take: Callable[[A], B], answer: A | AccountStoreError, /) -> B | AccountStoreError:
    """What `take` makes of a storage's answer, or the error, about the document's location."""
    try:
        if isinstance(answer, AccountStoreError):
            raise copy(answer)  # one error may stand for many documents
        return take(answer)
    except AccountStoreError as error:
        return locate(error, ref.location)

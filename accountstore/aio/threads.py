"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import finalize

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from accountstore.aio.loops import asyncio_loop
from accountstore.aio.pages import Paged
from accountstore.errors import ClosedError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class ThreadPool:
    """Runs a backend's blocking functions, at most `total` at a time.

    A thread cannot be stopped: a call that was cancelled ends on its own, and its result is dropped. The threads do not
    keep the process from ending.

    On asyncio the threads are its own: a hop costs 29 µs, 10 with 64 tasks at once, against 52 and 42 by
    `anyio.to_thread`, with which a local `get` takes 1.6 times as long. On trio it uses `anyio.to_thread`.
    """

    def __init__(self, total: int, /) -> None:
        self._total = total
        self._started = 0
        self._busy = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._turn = anyio.CapacityLimiter(total)
        self._close = finalize(self, self._calls.put, None)
        self._close.atexit = False

    async def run(self, function: Callable[[], T], /) -> T:
        """The function's result, in a thread. A cancelled caller leaves it behind, or withdraws it before it begins."""
        loop = asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._turn)
        await checkpoint_if_cancelled()
        if not self._close.alive:
            raise ClosedError("the store is closed")
        call = _Call(loop, function, self._end)
        # Threads start as they are needed; both counts change on the event loop only.
        self._busy += 1
        if self._started < min(self._busy, self._total):
            self._started += 1
            Thread(target=_work, args=(self._calls,), name="accountstore", daemon=True).start()
        self._calls.put(call.run)
        try:
            await call.waiter
        except BaseException:
            call.functions.clear()  # withdrawn, if it has not begun
            raise
        return call.outcome()

    def _end(self) -> None:
        self._busy -= 1

    def close(self) -> None:
        """Let the threads end when they have done what was begun."""
        self._close()


def _work(calls: SimpleQueue[Callable[[], None] | None], /) -> None:
    while (run := calls.get()) is not None:
        run()
        del run  # it holds a document
    calls.put(None)  # for the next thread


class _Call(Generic[T]):
    """A call in a thread that wakes its event loop once."""

    __slots__ = ("_end", "_error", "_loop", "_result", "functions", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], T], end: Callable[[], None], /) -> None:
        self.functions = [function]  # of the thread that pops it to call it, or of the caller who withdraws it
        self._end = end
        self._loop = loop
        self._error: BaseException | None = None
        self.waiter = loop.create_future()

    def outcome(self) -> T:
        """What the function returned or raised, once the waiter is done."""
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Call the function, in the thread."""
        try:
            self._result = self.functions.pop()()
        except BaseException as error:  # noqa: BLE001 -- raised by whoever waits
            self._error = error
        with suppress(RuntimeError):  # the loop was closed, and no caller waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._end()
        if not self.waiter.done():
            self.waiter.set_result(None)


def pages_in_threads(pool: ThreadPool, pages: Iterator[T], /) -> Paged[T]:
    """A blocking iterator of pages as an async one, one thread hop a page.

    Dropped before its end, it lets go of the blocking iterator, whose own clean-up runs at once.
    """
    turn = Lock()
    page: list[T] | None = None
    error: Exception | None = None

    def fetch() -> None:
        """Fetch a page and keep it: its caller may have been cancelled, and the next one finds it here."""
        nonlocal page, error
        with turn:
            if page is None and error is None:
                try:
                    page = [*islice(pages, 1)]
                except Exception as raised:  # noqa: BLE001 -- raised by whoever takes the page, again and again
                    error = raised

    async def next_page() -> T | None:
        nonlocal page
        await pool.run(fetch)
        if error is not None:
            raise error
        taken, page = page, None
        return taken[0] if taken else None

    return Paged(next_page)


class Lazy(Generic[T]):
    """A thing that the first thread which asks for it makes for all."""

    def __init__(self, make: Callable[[], T], /) -> None:
        self._make = make
        self._made: T | None = None
        self._making = Lock()

    def get(self) -> T:
        """The thing, made if it is not there. It may block."""
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made

    def take(self) -> T | None:
        """Take the thing out, if it was made: the next one who asks makes another."""
        made, self._made = self._made, None
        return made

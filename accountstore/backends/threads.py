"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar
from weakref import finalize

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from accountstore.backends.loops import asyncio_loop
from accountstore.errors import ClosedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from accountstore.backends.base import Stat

__all__ = ("ThreadPages", "Threads")

T = TypeVar("T")


class Threads:
    """Runs a backend's blocking functions, at most `total` at a time.

    A thread cannot be stopped: a call that was cancelled ends on its own, and its result is dropped.
    """

    def __init__(self, total: int, /) -> None:
        # On asyncio threads of our own: an executor's bookkeeping beside the event loop costs more than all else here.
        self._total = total
        self._started = 0
        self._busy = 0
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._turn = anyio.CapacityLimiter(total)
        self._close = finalize(self, self._jobs.put, None)
        self._close.atexit = False

    async def run(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread. A cancelled caller leaves it behind, or withdraws it before it begins."""
        loop = asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._turn)
        await checkpoint_if_cancelled()
        job = self._start(loop, call)
        try:
            await job.waiter
        except BaseException:
            job.withdraw()
            raise
        return job.outcome()

    def _start(self, loop: asyncio.AbstractEventLoop, call: Callable[[], T], /) -> _Job[T]:
        """Hand a call to a thread. Threads start as they are needed; both counts change on the event loop only."""
        if not self._close.alive:
            raise ClosedError("the store is closed")
        job = _Job(loop, call, self._end)
        self._busy += 1
        if self._started < min(self._busy, self._total):
            self._started += 1
            Thread(target=_work, args=(self._jobs,), name="accountstore", daemon=True).start()
        self._jobs.put(job.run)
        return job

    def _end(self) -> None:
        self._busy -= 1

    def close(self) -> None:
        """Let the threads end when they have done what was begun."""
        self._close()


def _work(jobs: SimpleQueue[Callable[[], None] | None], /) -> None:
    while (run := jobs.get()) is not None:
        run()
        del run  # it holds a document
    jobs.put(None)  # for the next thread


class _Job(Generic[T]):
    """A call in a thread that wakes its event loop once."""

    __slots__ = ("_calls", "_end", "_loop", "outcome", "waiter")

    outcome: Callable[[], T]
    """What the call returned or raised, once the waiter is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], T], end: Callable[[], None], /) -> None:
        self._calls = [call]  # whoever pops it has it: the thread that makes it, or the caller who withdraws it
        self._end = end
        self._loop = loop
        self.waiter = loop.create_future()

    def withdraw(self) -> None:
        """Keep the call from being made, if it has not begun."""
        self._calls.clear()

    def run(self) -> None:
        """Make the call, in the thread."""
        try:
            result = self._calls.pop()()
        except BaseException as error:  # noqa: BLE001 -- raised by whoever waits
            self.outcome = partial(_raise, error)
        else:
            self.outcome = lambda: result
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._end()
        if not self.waiter.done():
            self.waiter.set_result(None)


class ThreadPages:
    """A blocking iterator of pages as an async one, one thread hop a page.

    Not an async generator: dropped before its end, it lets go of the blocking iterator, whose own clean-up runs at once
    and on any event loop.
    """

    def __init__(self, threads: Threads, pages: Iterator[list[Stat]], /) -> None:
        self._threads = threads
        self._pages = pages
        self._page: list[list[Stat]] | None = None
        self._error: Exception | None = None
        self._turn = Lock()

    def __aiter__(self) -> ThreadPages:
        return self

    async def __anext__(self) -> list[Stat]:
        await self._threads.run(self._fetch)
        if self._error is not None:
            raise self._error
        page, self._page = self._page, None
        if not page:
            raise StopAsyncIteration
        return page[0]

    def _fetch(self) -> None:
        """Fetch a page and keep it: its caller may have been cancelled, and the next one finds it here."""
        with self._turn:
            if self._page is None and self._error is None:
                try:
                    self._page = [*islice(self._pages, 1)]
                except Exception as error:  # noqa: BLE001 -- raised by whoever takes the page, again and again
                    self._error = error


def _raise(error: BaseException, /) -> NoReturn:
    raise error

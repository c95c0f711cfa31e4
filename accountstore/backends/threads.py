"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar
from weakref import finalize

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from accountstore.errors import ClosedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from accountstore.backends.base import Stat

__all__ = ("ThreadPages", "Threads")

T = TypeVar("T")


class Threads:
    """Runs a backend's blocking functions, at most `total` at a time.

    A read that is cancelled is abandoned: its thread ends on its own and the result is dropped. A write is cancelled
    only before it begins; once begun it is awaited to its end, whatever cancels, so that it can never land after the
    caller has gone on.
    """

    def __init__(self, total: int, /) -> None:
        # On asyncio threads of our own: Task.cancel(), which asyncio.timeout() calls, passes through anyio's shields;
        # and an executor's bookkeeping beside the event loop costs more than anything else in an operation.
        self._total = total
        self._started = 0
        self._busy = 0
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._turn = anyio.CapacityLimiter(total)
        self._close = finalize(self, self._jobs.put, None)
        self._close.atexit = False

    async def read(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that a cancelled caller leaves behind."""
        loop = _asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._turn)
        await checkpoint_if_cancelled()
        job = self._start(loop, call)
        await job.waiter
        return job.outcome()

    async def write(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that is always awaited."""
        loop = _asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(call, limiter=self._turn)
        await checkpoint_if_cancelled()
        from asyncio import CancelledError

        job = self._start(loop, call)
        try:
            await job.waiter
        except CancelledError:
            # Deferred, not caught: it goes on when the call has ended, or at once if it never began.
            if not job.withdraw():
                with anyio.CancelScope(shield=True):
                    while not job.ended:
                        job.waiter = loop.create_future()
                        try:
                            await job.waiter
                        except CancelledError:
                            continue
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

    __slots__ = ("_calls", "_end", "_loop", "ended", "outcome", "waiter")

    outcome: Callable[[], T]
    """What the call returned or raised, once `ended`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], T], end: Callable[[], None], /) -> None:
        self._calls = [call]  # whoever pops it has it: the thread that makes it, or the caller who withdraws it
        self._end = end
        self._loop = loop
        self.ended = False
        self.waiter = loop.create_future()

    def withdraw(self) -> bool:
        """Keep the call from being made, if it has not begun."""
        try:
            self._calls.pop()
        except IndexError:
            return False
        return True

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
        self.ended = True
        if not self.waiter.done():
            self.waiter.set_result(None)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the current asyncio task, or None on trio."""
    if "asyncio" in sys.modules:
        from asyncio import current_task

        try:
            task = current_task()
        except RuntimeError:
            return None
        if task is not None:
            return task.get_loop()
    return None


class ThreadPages:
    """A blocking iterator of pages as an async one, one thread hop a page.

    Not an async generator: dropped before its end, it lets go of the blocking iterator, whose own clean-up runs at once
    and on any event loop.
    """

    def __init__(self, threads: Threads, pages: Iterator[list[Stat]], /) -> None:
        self._threads = threads
        self._pages = pages
        self._fetched: Callable[[], list[Stat] | None] | None = None

    def __aiter__(self) -> ThreadPages:
        return self

    async def __anext__(self) -> list[Stat]:
        if self._fetched is None:
            await self._threads.write(self._fetch)
        fetched, self._fetched = self._fetched, None
        page = fetched() if fetched is not None else None
        if page is None:
            raise StopAsyncIteration
        return page

    def _fetch(self) -> None:
        """Fetch a page, or what became of it, and keep it: its caller may have been cancelled."""
        try:
            page = next(self._pages, None)
        except Exception as error:  # noqa: BLE001 -- raised by whoever takes the page
            self._fetched = partial(_raise, error)
        else:
            self._fetched = lambda: page


def _raise(error: BaseException, /) -> NoReturn:
    raise error

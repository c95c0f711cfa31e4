"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

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
        # On asyncio a pool of our own: Task.cancel(), which asyncio.timeout() calls, passes through anyio's shields.
        self._pool = ThreadPoolExecutor(total, "accountstore")
        self._turn = anyio.CapacityLimiter(total)

    async def read(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that a cancelled caller leaves behind."""
        loop = _asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._turn)
        await checkpoint_if_cancelled()
        return await loop.run_in_executor(self._pool, call)

    async def write(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that is always awaited."""
        loop = _asyncio_loop()
        if loop is None:
            return await anyio.to_thread.run_sync(call, limiter=self._turn)
        await checkpoint_if_cancelled()
        return await self._to_the_end(loop, call)

    async def _to_the_end(self, loop: asyncio.AbstractEventLoop, call: Callable[[], T], /) -> T:
        from asyncio import CancelledError, wait, wrap_future

        thread = self._pool.submit(call)
        try:
            return await wrap_future(thread, loop=loop)
        except CancelledError:
            # Deferred, not caught: it goes on when the thread has ended, or at once if it never began.
            if not thread.cancelled():
                ended = wrap_future(thread, loop=loop)
                with anyio.CancelScope(shield=True):
                    while not ended.done():
                        try:
                            await wait((ended,))
                        except CancelledError:
                            continue
                ended.exception()
            raise

    def close(self) -> None:
        """Let the idle threads end."""
        self._pool.shutdown(wait=False)


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


def _raise(error: Exception, /) -> NoReturn:
    raise error

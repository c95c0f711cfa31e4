"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

import sys
from math import inf
from typing import TYPE_CHECKING, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accountstore.backends.base import Stat

__all__ = ("Pages", "Threads")

T = TypeVar("T")


class Threads:
    """Runs a backend's blocking functions, at most `total` at a time.

    A read that is cancelled is abandoned: its thread ends on its own and the result is dropped. A write is cancelled
    only before it begins; once begun it is awaited to its end, whatever cancels, so that it can never land after the
    caller has gone on.
    """

    def __init__(self, total: int, /) -> None:
        self._turn = CapacityLimiter(total)
        self._unlimited = CapacityLimiter(inf)

    async def read(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that a cancelled caller leaves behind."""
        return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._turn)

    async def write(self, call: Callable[[], T], /) -> T:
        """The result of `call`, in a thread that is always awaited."""
        async with self._turn:
            if "asyncio" in sys.modules:
                from asyncio import CancelledError, current_task, ensure_future, wait

                try:
                    on_asyncio = current_task() is not None
                except RuntimeError:
                    on_asyncio = False
                if on_asyncio:
                    # Task.cancel(), as asyncio.timeout() calls it, passes through anyio's shields: the thread runs in
                    # a task of its own, and a cancellation that arrives is raised when the thread has ended.
                    thread = ensure_future(to_thread.run_sync(call, limiter=self._unlimited))
                    cancelled: CancelledError | None = None
                    with CancelScope(shield=True):
                        while not thread.done():
                            try:
                                await wait((thread,))
                            except CancelledError as error:
                                cancelled = error
                    if cancelled is not None:
                        thread.exception()
                        raise cancelled
                    return thread.result()
            return await to_thread.run_sync(call, limiter=self._unlimited)


class Pages:
    """A blocking iterator of pages as an async one, one thread hop a page.

    Not an async generator: dropped before its end, it lets go of the blocking iterator, whose own clean-up runs at once
    and on any event loop.
    """

    def __init__(self, threads: Threads, pages: Iterator[list[Stat]], /) -> None:
        self._threads = threads
        self._pages = pages

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> list[Stat]:
        page = await self._threads.write(lambda: next(self._pages, None))
        if page is None:
            raise StopAsyncIteration
        return page

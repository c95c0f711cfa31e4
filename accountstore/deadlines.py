"""How long a call may take, and what a cancellation of its caller does meanwhile, on asyncio and on trio."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from accountstore.backends.loops import asyncio_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType

__all__ = ("Deadline", "to_the_end")

T = TypeVar("T")


class Deadline:
    """A number of seconds that each of many calls may take, at the cost of one timer for all of them (on asyncio)."""

    def __init__(self, seconds: float, /) -> None:
        self.seconds: float = seconds
        self._waiting: deque[_Bound] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], object], /) -> _Bound:
        """Call `expire` when the time is up, unless `end` is called on what this returns."""
        waiting = self._waiting
        while waiting and waiting[0].expire is None:
            waiting.popleft()
        bound = _Bound(loop.time() + self.seconds, expire)
        waiting.append(bound)
        if self._timer is None:
            self._timer = loop.call_at(bound.when, self._sweep, loop)
        return bound

    def limit(self) -> AbstractContextManager[object, bool | None]:
        """Cancel what is in the block when the time is up, and go on behind the block."""
        loop = asyncio_loop()
        if loop is not None:
            return _Limit(self, loop)
        from trio import move_on_after

        return move_on_after(self.seconds)

    def _sweep(self, loop: asyncio.AbstractEventLoop, /) -> None:
        waiting, now = self._waiting, loop.time()
        while waiting and (waiting[0].expire is None or waiting[0].when <= now):
            expire = waiting.popleft().expire
            if expire is not None:
                expire()
        self._timer = loop.call_at(waiting[0].when, self._sweep, loop) if waiting else None


class _Bound:
    """When one call's time is up, and what then."""

    __slots__ = ("expire", "when")

    def __init__(self, when: float, expire: Callable[[], object], /) -> None:
        self.when: float = when
        self.expire: Callable[[], object] | None = expire

    def end(self) -> None:
        """The call has ended."""
        self.expire = None


class _Limit:
    """A part of a task that is cancelled when the time is up, as `anyio.move_on_after` does it for a multiple."""

    __slots__ = ("_before", "_bound", "_expired", "_task")

    def __init__(self, deadline: Deadline, loop: asyncio.AbstractEventLoop, /) -> None:
        task: asyncio.Task[Any] | None = sys.modules["asyncio"].current_task(loop)
        if task is None:
            raise RuntimeError("not in a task")
        self._task = task
        self._before = task.cancelling()
        self._expired = False
        self._bound = deadline.begin(loop, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._bound.end()
        if not self._expired:
            return False
        own = self._task.uncancel() <= self._before  # only the cancellation made here ends here
        return own and kind is sys.modules["asyncio"].CancelledError


def to_the_end(call: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline, /) -> Coroutine[Any, Any, T]:
    """To be awaited: the result of `call`, which goes on whatever cancels the caller: only when the time is up it is
    given up.

    A cancellation of the caller takes effect before the call begins, or when it has ended.

    Raises:
        TimeoutError: the time is up; the call was cancelled.
    """
    loop = asyncio_loop()
    return _shielded(call, deadline) if loop is None else _in_a_task(loop, call, deadline)


async def _shielded(call: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline, /) -> T:
    from trio import CancelScope, current_time
    from trio.lowlevel import checkpoint_if_cancelled

    await checkpoint_if_cancelled()
    result: tuple[()] | tuple[T] = ()
    with CancelScope(deadline=current_time() + deadline.seconds, shield=True):
        result = (await call(),)
    await checkpoint_if_cancelled()
    if not result:
        raise TimeoutError
    return result[0]


async def _in_a_task(
    loop: asyncio.AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline, /
) -> T:
    """In a task of its own: `Task.cancel()`, which asyncio.timeout() calls, passes through anyio's shields."""
    library = sys.modules["asyncio"]
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def go_on() -> T:
        try:
            if waiter.cancelled():  # the caller was, before this began
                await waiter
            return await call()
        finally:
            wake()  # rather than by a callback, which takes a further turn of the loop

    def give_up() -> None:
        if not task.cancel():
            wake()

    task = loop.create_task(go_on())
    bound = deadline.begin(loop, give_up)
    try:
        await waiter
    except library.CancelledError:
        await _end_of(task)  # deferred, not caught
        raise
    finally:
        bound.end()
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def _end_of(task: asyncio.Task[Any], /) -> None:
    """Wait until a task has ended, whatever cancels the caller. What it raises is dropped."""
    from asyncio import CancelledError, wait

    with anyio.CancelScope(shield=True):
        while not task.done():
            with suppress(CancelledError):
                await wait((task,))
    if not task.cancelled():
        task.exception()

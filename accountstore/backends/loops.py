"""Event loops: which one runs, and asyncio clients on trio."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import anyio

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType

    import trio

__all__ = ("AsyncioThread", "Deadline", "asyncio_loop", "running_loop", "to_the_end")

T = TypeVar("T")


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio event loop that runs in this thread, or None: on trio, or outside of any."""
    library = sys.modules.get("asyncio")
    if library is None:
        return None
    try:  # neither suppress() nor an import: this is on the way of every operation
        loop: asyncio.AbstractEventLoop = library.get_running_loop()
    except (RuntimeError, AttributeError):  # none runs here; or another thread is importing it just now
        return None
    return loop


def running_loop() -> object | None:
    """What tells the event loop that runs in this thread from any other; None outside of any."""
    loop = asyncio_loop()
    if loop is None and "trio" in sys.modules:
        from trio.lowlevel import current_trio_token

        with suppress(RuntimeError):
            return current_trio_token()
    return loop


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
        if not self._expired or kind is not sys.modules["asyncio"].CancelledError:
            return False
        return self._task.uncancel() <= self._before  # only the cancellation made here ends here


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


class AsyncioThread:
    """Runs the coroutines of an asyncio client: on asyncio where they are awaited; on trio on an asyncio event loop in
    a thread of its own, which starts with the first call, without a further thread for each.

    Cancellation reaches them there too, and the caller goes on when they have ended.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._run: trio.lowlevel.TrioToken | None = None
        self._to_asyncio = _Mailbox(None)
        self._to_trio = _Mailbox(None)

    def run(self, call: Callable[[], Coroutine[Any, Any, T]], /) -> Coroutine[Any, Any, T]:
        """To be awaited: the result of `call`."""
        return call() if asyncio_loop() is not None else self._from_trio(call)

    async def _from_trio(self, call: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        from trio.lowlevel import Abort, checkpoint_if_cancelled, current_trio_token, wait_task_rescheduled

        await checkpoint_if_cancelled()
        loop = self._loop or self._start()
        if self._run is not current_trio_token():
            self._run = current_trio_token()
            self._to_trio = _Mailbox(self._run.run_sync_soon)
        job = _Job(loop, call, self._to_trio)
        cancelled: Callable[[], NoReturn] | None = None

        def abort(raise_cancelled: Callable[[], NoReturn]) -> Abort:
            nonlocal cancelled
            cancelled = raise_cancelled
            self._to_asyncio.put(job.cancel)
            return Abort.FAILED  # not yet: it is awaited to its end

        self._to_asyncio.put(job.start)
        await wait_task_rescheduled(abort)
        return job.result() if cancelled is None else cancelled()

    def _start(self) -> asyncio.AbstractEventLoop:
        from asyncio import new_event_loop

        loop = self._loop = new_event_loop()
        self._to_asyncio = _Mailbox(loop.call_soon_threadsafe)
        self._thread = Thread(target=_serve, args=(loop,), name="accountstore asyncio", daemon=True)
        self._thread.start()
        return loop

    async def aclose(self) -> None:
        """End the thread, if there is one. Its coroutines must have ended."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            await anyio.to_thread.run_sync(self._thread.join)


def _serve(loop: asyncio.AbstractEventLoop, /) -> None:
    from asyncio import set_event_loop

    set_event_loop(loop)  # some clients ask for it where they should ask for the running one
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        set_event_loop(None)


class _Mailbox:
    """Calls from one thread to the event loop of another, as many as there are by one wake-up of it."""

    def __init__(self, wake: Callable[[Callable[[], None]], object] | None, /) -> None:
        self._wake = wake
        self._calls: deque[Callable[[], object]] = deque()

    def put(self, call: Callable[[], object], /) -> None:
        """Have `call` called there, after those before it."""
        self._calls.append(call)
        # With more in it the wake-up is on its way, or the loop is just emptying it.
        if len(self._calls) == 1 and self._wake is not None:
            self._wake(self._deliver)

    def _deliver(self) -> None:
        while self._calls:
            self._calls.popleft()()


class _Job(Generic[T]):
    """A coroutine on an asyncio loop, for a trio task that goes on when it has ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, T]], back: _Mailbox, /
    ) -> None:
        from trio.lowlevel import current_task

        self._loop = loop
        self._call = call
        self._back = back
        self._waiting = current_task()
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        """Begin, on the asyncio loop."""
        self._task = self._loop.create_task(self._call())
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel, on the asyncio loop."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        """What it returned or raised."""
        if self._task is None:
            raise RuntimeError("it has not begun")
        return self._task.result()

    def _end(self, task: asyncio.Task[T], /) -> None:
        from trio import RunFinishedError

        if not task.cancelled():
            task.exception()  # it is raised by whoever asks for the result, if anyone does
        with suppress(RunFinishedError):
            self._back.put(self._go_on)

    def _go_on(self) -> None:
        """Wake the trio task, on its loop."""
        from trio.lowlevel import reschedule

        reschedule(self._waiting)

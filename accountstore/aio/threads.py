"""Blocking calls from async code: one thread hop an operation, one rule for cancellation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from sys import modules
from threading import Lock, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import finalize

from anyio import sleep
from anyio.lowlevel import checkpoint_if_cancelled

from accountstore.aio.loops import asyncio_loop
from accountstore.aio.pages import Paged
from accountstore.aio.sending import hold, releaser
from accountstore.errors import ClosedError, UnavailableError

if TYPE_CHECKING:
    import trio

T = TypeVar("T")

_GRACE = 0.25
"""How long, in seconds, a call that was left behind may keep others waiting for its thread."""
_PUBLICATION = 2.0
"""How long, in seconds, whoever gives up a write waits for what is just being published: a rename that takes longer
hangs, as on a file server that does not answer.
"""
_HANGING = 16
"""How many calls may hang, at least, before others must wait for them."""


class Fence:
    """Between a blocking write and its publication, which is a `with` block: nothing is published once it is closed.

    Raises `UnavailableError` at the block's beginning.
    """

    def __init__(self, passed: Callable[[str | None], object], /) -> None:
        """`passed` is called when something has been published, before anybody learns that nothing is any more."""
        self._passed = passed
        self._key: str | None = None
        self._publishing = Lock()
        self._closed = False
        self.abandoned: Callable[[], bool] = bool
        """Whether the event loop of the caller is gone."""

    def of(self, key: str, /) -> Fence:
        """The fence for the write of this key, one of several."""
        self._key = key
        return self

    def close(self) -> bool:
        """Let nothing more be published. Whether nothing is just being published."""
        self._closed = True
        if self._publishing.acquire(blocking=False):
            self._publishing.release()
            return True
        return False

    def suspect(self) -> None:
        """Count what is just being published as published: nobody waits for it any more."""
        self._passed(self._key)

    def __enter__(self) -> None:
        self._publishing.acquire()
        if self._closed or self.abandoned():
            self._publishing.release()
            raise UnavailableError("it was given up", sent=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._passed(self._key)
        self._publishing.release()


class ThreadPool:
    """Runs a backend's blocking functions, at most `total` at a time.

    A thread cannot be stopped: a call that was cancelled in its midst goes on, unless what it stands on can be ended.
    Where all threads are busy and it does not end in a moment, it keeps its thread, and another takes its place; so up
    to `total` calls may hang, or 16 if that is more, and as many go on as before. The threads do not keep the process
    from ending.

    The threads are its own: on asyncio a hop costs 29 µs, 10 with 64 tasks at once, against 52 and 42 by
    `anyio.to_thread`, with which a local `get` takes 1.6 times as long.
    """

    def __init__(self, total: int, /) -> None:
        self._total = total
        self._started = 0
        self._lost = 0
        self._busy = 0
        self._left: dict[_Call[Any], float] = {}  # and since when
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._close = finalize(self, self._calls.put, None)
        self._close.atexit = False

    async def run(self, function: Callable[[], T], /, give_up: Callable[[], object] = bool) -> T:
        """The function's result, in a thread. A cancelled caller leaves it behind, or withdraws it before it begins.
        `give_up` is called on the event loop when it is left behind, or has just ended.

        Raises:
            UnavailableError: the system has no thread.
            ClosedError: the pool is closed.
        """
        return await self._run(_Call(function, None, give_up))

    async def run_fenced(self, function: Callable[[Fence], T], /, give_up: Callable[[], object] = bool) -> T:
        """As `run`, for a function that publishes something behind a fence. Where it is doing so when the caller is
        cancelled, the result comes all the same, unless that takes more than two seconds. Where it has, or may have,
        the write that the caller makes counts as sent.
        """
        hold()
        fence = Fence(releaser())
        return await self._run(_Call(partial(function, fence), fence, give_up))

    async def _run(self, call: _Call[T], /) -> T:
        await checkpoint_if_cancelled()
        if not self._close.alive:
            raise ClosedError("the store is closed")
        if self._left:
            await self._replace()
        loop = asyncio_loop()
        if loop is None:
            await self._run_on_trio(call)
        else:
            if call.fence is not None:
                call.fence.abandoned = loop.is_closed
            waiter = loop.create_future()
            call.begin(lambda: loop.call_soon_threadsafe(self._end, call), partial(_set, waiter))
            self._submit(call)
            try:
                await waiter
            except BaseException:
                if self._give_up(call):
                    raise
                waiter = loop.create_future()
                call.wake = partial(_set, waiter)
                end = monotonic() + _PUBLICATION
                while not waiter.done():
                    left = end - monotonic()
                    if left <= 0:
                        self._leave_publishing(call)
                        raise
                    with suppress(modules["asyncio"].CancelledError):  # its outcome is near
                        await modules["asyncio"].wait((waiter,), timeout=left)
        return call.outcome()

    async def _run_on_trio(self, call: _Call[T], /) -> None:
        from trio import Event, move_on_after
        from trio.lowlevel import current_task, current_trio_token, reschedule, wait_task_rescheduled

        token = current_trio_token()
        ending = Event()
        call.begin(lambda: token.run_sync_soon(self._end, call), partial(reschedule, current_task()))
        self._submit(call)
        try:
            await wait_task_rescheduled(lambda _: self._abort(call, ending))
        except BaseException:
            if call.wake is None:
                raise
            with move_on_after(_PUBLICATION, shield=True):
                await ending.wait()
            if not ending.is_set():
                self._leave_publishing(call)
                raise

    def _abort(self, call: _Call[T], ending: trio.Event, /) -> trio.lowlevel.Abort:
        """Give up a call whose task is cancelled; or have the event set when its publication has ended."""
        from trio.lowlevel import Abort

        if not self._give_up(call):
            call.wake = ending.set
        return Abort.SUCCEEDED

    def _submit(self, call: _Call[Any], /) -> None:
        """Have a thread call it. All counts change on the event loop only."""
        if self._started < min(self._busy + 1, self._total):
            try:
                Thread(target=_work, args=(self._calls,), name="accountstore", daemon=True).start()
            except RuntimeError:  # the system has none
                if not self._started:
                    raise UnavailableError("no thread can be started", sent=False) from None
            else:
                self._started += 1
        self._calls.put(call)
        self._busy += 1

    def _give_up(self, call: _Call[Any], /) -> bool:
        """Whether a call that nobody waits for has no effect any more."""
        if call.withdraw():
            call.wake = None
            return True
        if call.fence is not None and not call.fence.close():
            return False  # its end is near, and wakes whoever waits
        self._leave(call)
        return True

    def _leave(self, call: _Call[Any], /) -> None:
        call.wake = None
        self._left[call] = monotonic()
        call.give_up()

    def _leave_publishing(self, call: _Call[Any], /) -> None:
        """Leave a call behind whose publication hangs."""
        if call.fence is not None:
            call.fence.suspect()
        self._leave(call)

    async def _replace(self) -> None:
        """Where all threads are busy, wait a moment for the calls that were left behind, and then replace a thread."""
        while self._left and self._busy >= self._total and self._lost < max(self._total, _HANGING):
            call, since = next(iter(self._left.items()))
            if monotonic() < since + _GRACE:
                await sleep(_GRACE / 50)
                continue
            del self._left[call]
            if call.take_place():
                call.lost = True
                self._lost += 1
                self._started -= 1
                self._busy -= 1

    def _end(self, call: _Call[Any], /) -> None:
        self._left.pop(call, None)
        if call.lost:
            self._lost -= 1
        else:
            self._busy -= 1
        if call.wake is not None:
            call.wake()

    def close(self) -> None:
        """Let the threads end when they have done what was begun."""
        self._close()


def run_alone(function: Callable[[], object], /) -> None:
    """Call a function in a thread that nobody waits for; not at all where the system has none."""
    with suppress(RuntimeError):
        Thread(target=function, name="accountstore", daemon=True).start()


def _work(calls: SimpleQueue[_Call[Any] | None], /) -> None:
    while (call := calls.get()) is not None:
        call.run()
        if not call.take_place():
            return  # another thread has it
        del call  # it holds a document
    calls.put(None)  # for the next thread


def _set(waiter: Any, /) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Call(Generic[T]):
    """A call in a thread, which wakes the event loop once."""

    __slots__ = ("_end", "_error", "_functions", "_place", "_result", "fence", "give_up", "lost", "wake")

    def __init__(self, function: Callable[[], T], fence: Fence | None, give_up: Callable[[], object], /) -> None:
        self._functions = [function]  # of the thread that pops it to call it, or of the caller who withdraws it
        self._error: BaseException | None = None
        self.fence = fence
        self.give_up = give_up
        self._place = [True]
        self.lost = False

    def begin(self, end: Callable[[], object], wake: Callable[[], object], /) -> None:
        """What the thread calls at the end; and what wakes the waiter, on the event loop."""
        self._end = end
        self.wake: Callable[[], object] | None = wake

    def take_place(self) -> bool:
        """Who is first has the thread's place in the pool: the thread, or whoever takes it for lost."""
        try:
            self._place.pop()
        except IndexError:
            return False
        return True

    def withdraw(self) -> bool:
        """Keep it from beginning. Whether it had not begun."""
        try:
            self._functions.pop()
        except IndexError:
            return False
        return True

    def outcome(self) -> T:
        """What the function returned or raised, once it has ended."""
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Call the function, in the thread."""
        try:
            function = self._functions.pop()
        except IndexError:  # withdrawn
            pass
        else:
            try:
                self._result = function()
            except BaseException as error:  # noqa: BLE001 -- raised by whoever waits
                self._error = error
            del function
        with suppress(RuntimeError):  # the loop was closed, and no caller waits
            self._end()
        del self._end  # it holds the call and the pool


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

    def drop(self, thing: T, /) -> None:
        """Take the thing out if it is this one: another thread may have done so, and made another."""
        if self._made is thing:
            with self._making:
                if self._made is thing:
                    self._made = None

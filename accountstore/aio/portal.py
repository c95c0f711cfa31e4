"""An event loop in a thread of its own, for synchronous code that waits for calls on it."""

from __future__ import annotations

import os
import sys
from asyncio import AbstractEventLoop, Future, Runner, new_event_loop
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from queue import SimpleQueue
from threading import RLock, Thread, get_ident
from typing import Any, Generic, TypeVar

from anyio import CancelScope

from accountstore.aio.callers import CALLER
from accountstore.errors import ClosedError, UnavailableError

T = TypeVar("T")

_WITHIN: ContextVar[tuple[LoopThread, ...]] = ContextVar("accountstore_within", default=())
"""The threads with a call under way that has called this function."""


class LoopThread:
    """An event loop in a thread, until it is closed.

    Not anyio's blocking portal: what it begins nobody can wait for who was interrupted; a `SystemExit` in one call ends
    it for all; and calls beside its end are lost.
    """

    def __init__(self, name: str, /) -> None:
        """Raises `UnavailableError` where the system has no thread or no descriptor."""
        self._process = os.getpid()
        self._runner = Runner(loop_factory=new_event_loop)
        try:
            self.loop: AbstractEventLoop = self._runner.get_loop()
        except OSError as error:
            raise UnavailableError(f"no event loop can be made ({error.strerror})", sent=False) from None
        # Both may be taken again by the handler of a signal.
        self._accepting = RLock()
        self._closing = RLock()
        self._is_closed = False
        self._calls: set[_Call[Any]] = set()  # these three are the event loop's alone
        self._is_stopping = False
        self._has_stopped = False
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has none
            self.loop.close()
            raise UnavailableError("no thread can be started", sent=False) from None

    def _serve(self) -> None:
        with self._runner:
            while not self._has_stopped:
                # A task may let these out of the event loop: whoever waits for it has them, too.
                with suppress(SystemExit, KeyboardInterrupt):
                    self.loop.run_forever()

    def run(self, function: Callable[[], Awaitable[T]], /) -> T:
        """The result of a call, on the event loop. An exception in this thread meanwhile, such as `KeyboardInterrupt`,
        cancels it, and is raised when it has ended; a second one at once.

        Raises:
            ClosedError: it is closed; its thread is not there, as after a fork.
            RuntimeError: on the event loop itself.
        """
        if os.getpid() != self._process:
            raise ClosedError("the store was opened in another process: open one in each, after the fork")
        if sys.is_finalizing():
            raise ClosedError("the store's thread has ended with the program: close the store before")
        self._check_thread()
        call: _Call[T] = _Call(self)
        try:
            self._begin(call, function)
            call.wait()
        except ClosedError:
            raise  # it has not begun
        except BaseException:
            call.give_up()
            raise
        error, call.error = call.error, None
        if error is None:
            return call.result
        try:
            raise error
        finally:
            del error, call, function  # else an error would hold itself, and they what they were given

    def _check_thread(self) -> None:
        if get_ident() == self._thread.ident:
            raise RuntimeError(
                "this is the store's event loop thread, and a call would wait for itself:"
                " neither an observer nor an async function may call the store"
            )

    def _begin(self, call: _Call[T], function: Callable[[], Awaitable[T]], /) -> None:
        with self._accepting:
            if self._is_closed:
                raise ClosedError("the store is closed")
            self.loop.call_soon_threadsafe(call.start, function, context=_own_context())

    def close(self, last: Callable[[], Awaitable[object]], /) -> None:
        """Make a last call, and end the thread when the calls under way have ended. A second call waits for the first;
        after a fork, and when the interpreter ends, the thread is no longer there, and nothing is done.

        Raises:
            RuntimeError: within a function that a call has called; on the event loop.
        """
        if os.getpid() != self._process or sys.is_finalizing():
            return
        self._check_thread()
        if self in _WITHIN.get():
            raise RuntimeError("close the store after the call that has called this function, for which it would wait")
        with self._closing:
            if self._is_closed:
                return
            try:
                self.run(last)
            finally:
                with self._accepting:
                    self._is_closed = True
                with suppress(RuntimeError):  # the handler of a signal has closed it meanwhile
                    self.loop.call_soon_threadsafe(self._stop, get_ident())
                self._thread.join()

    # --- on the event loop --------------------------------------------------------------------------------------------

    def begun(self, call: _Call[Any], /) -> None:
        """A call is under way."""
        self._calls.add(call)

    def ended(self, call: _Call[Any], /) -> None:
        """It no longer is."""
        self._calls.discard(call)
        self._stop_if_idle()

    def _stop(self, closing: int, /) -> None:
        """Stop as soon as no call is under way: those that were accepted have begun. Those of the closing thread, which
        a signal's handler closes it in, could wait for that thread.
        """
        self._is_stopping = True
        for call in self._calls:
            if call.waiting == closing:
                call.cancel()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._is_stopping and not self._calls:
            self._has_stopped = True
            self.loop.stop()


class _Call(Generic[T]):
    """A call on the event loop, and the thread that waits for it."""

    def __init__(self, thread: LoopThread, /) -> None:
        self.thread = thread
        self.loop: AbstractEventLoop = thread.loop
        self.waiting: int = get_ident()
        self._scope: CancelScope | None = None
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._has_ended = False
        self.result: T
        self.error: BaseException | None = None

    # --- in the thread that waits -------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Wait for the end, and call the functions that the call asks for."""
        while not self._has_ended:
            self._asked.get()()

    def give_up(self) -> None:
        """Cancel it, and wait for its end."""
        with suppress(RuntimeError):  # the event loop has ended
            self.loop.call_soon_threadsafe(self.cancel)
            while not self._has_ended:
                self._asked.get()

    def _answer(self, function: Callable[[], Any], answer: Future[tuple[Any, BaseException | None]], /) -> None:
        result, error = None, None
        token = _WITHIN.set((*_WITHIN.get(), self.thread))
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 -- it is raised where it was asked for
            error = raised
        finally:
            _WITHIN.reset(token)
        self.loop.call_soon_threadsafe(_set, answer, (result, error))
        del error

    # --- on the event loop --------------------------------------------------------------------------------------------

    def start(self, function: Callable[[], Awaitable[T]], /) -> None:
        """Begin."""
        self._scope = CancelScope()
        self.thread.begun(self)
        self._task = self.loop.create_task(self._run(self._scope, function))

    def cancel(self) -> None:
        """Have it end soon."""
        if self._scope is not None:
            self._scope.cancel()
        else:  # it has not begun, and does not begin any more
            self._end()

    async def _run(self, scope: CancelScope, function: Callable[[], Awaitable[T]], /) -> None:
        CALLER.set(self)
        _WITHIN.set((*_WITHIN.get(), self.thread))
        try:
            with scope:
                self.result = await function()
            if scope.cancelled_caught:
                self.error = ClosedError("the store is closed")
        except BaseException as error:  # noqa: BLE001 -- raised by the thread that waits
            self.error = error
        finally:
            del function  # as `LoopThread.run`
            self.thread.ended(self)
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        self._asked.put(_nothing)

    async def ask(self, function: Callable[[], Any], /) -> Any:
        """The function's result, from the thread that waits."""
        answer: Future[tuple[Any, BaseException | None]] = self.loop.create_future()
        self._asked.put(partial(self._answer, function, answer))
        result, error = await answer
        if error is None:
            return result
        try:
            raise error
        finally:
            del error


def _set(answer: Future[T], result: T, /) -> None:
    if not answer.done():
        answer.set_result(result)


def _nothing() -> None: ...


def _own_context() -> Context:
    """The context of this thread, which may have an event loop of another library."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context

"""Calls under way: their deadlines, their number, their end, and a call that goes on whatever cancels its caller."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from math import inf
from sys import modules
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio

from accountstore.aio.deadlines import Deadlines
from accountstore.aio.loops import asyncio_loop

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


_UNLISTED: ContextVar[bool] = ContextVar("unlisted", default=False)
"""Whether the tasks of shielded calls are taken out of `asyncio.all_tasks()`."""
_MOST = 10_000
"""Closing takes each turn."""


class InFlight:
    """The calls of one storage that are under way: at most `total` at a time, ended together.

    Each has its turn (`async with calls.turns`) and its deadline (`with Deadline(calls.deadlines, by)`). More than
    10,000 is as good as no bound, and counts as so many.
    """

    def __init__(self, total: int, /) -> None:
        self.closed: bool = False
        total = min(total, _MOST)
        self.turns: anyio.Semaphore = anyio.Semaphore(total, fast_acquire=True)
        self.deadlines: Deadlines = Deadlines()
        self._total = total

    async def aclose(self, by: float, /) -> None:
        """End the calls under way, and those that wait for a turn; wait until they have ended, or the time is up."""
        self.closed = True
        await self.deadlines.end_all()
        taken = 0
        with anyio.move_on_after(by - monotonic()):
            while taken < self._total:
                await self.turns.acquire()
                taken += 1
        for _ in range(taken):  # who comes now is told at once that it is closed
            self.turns.release()


def is_failure(error: BaseException, /) -> bool:
    """Whether what a function of others raises is its own failure: an `Exception`, or a cancellation that nobody has
    asked this task for.
    """
    if isinstance(error, (Exception, GeneratorExit)) or not isinstance(error, anyio.get_cancelled_exc_class()):
        return isinstance(error, Exception)
    task = None if asyncio_loop() is None else modules["asyncio"].current_task()
    return anyio.current_effective_deadline() > -inf and (task is None or not task.cancelling())


async def run_shielded(call: Callable[[*Ts], Coroutine[Any, Any, T]], /, *arguments: *Ts) -> T:
    """The result of `call`, which goes on whatever cancels the caller.

    A cancellation of the caller takes effect before the call begins, or when it has ended. On asyncio the call has a
    task of its own, for `Task.cancel()`, which `asyncio.timeout()` calls, passes through anyio's shields.
    """
    loop = asyncio_loop()
    if loop is None:
        return await _in_a_scope(call, *arguments)
    waiter = loop.create_future()
    task = loop.create_task(_in_a_task(waiter, call, *arguments))
    if _UNLISTED.get():
        _unlist(task)
    task.add_done_callback(partial(_wake, waiter))  # should a stranger cancel it before its first step
    try:
        await waiter
    except modules["asyncio"].CancelledError:
        await _end_of(task)  # deferred, not caught
        raise
    return task.result()


async def run_uninterrupted(call: Callable[[*Ts], Coroutine[Any, Any, T]], /, *arguments: *Ts) -> T:
    """As `run_shielded`, for what goes on at Ctrl-C, too, which ends the caller afterwards.

    asyncio cancels the main task then, and all others when that has ended, as some do at SIGTERM. So the call's task,
    and those that it shields, are not in `asyncio.all_tasks()`: who cancels these cancels the caller and waits for it.
    Trio raises `KeyboardInterrupt` there, wherever it waits: there the call has a task of its own, too.
    """
    if asyncio_loop() is not None:
        before = _UNLISTED.set(True)
        try:
            return await run_shielded(call, *arguments)
        finally:
            _UNLISTED.reset(before)
    from trio.lowlevel import enable_ki_protection

    outcome: list[T | BaseException] = []
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enable_ki_protection(_keep), outcome, partial(_in_a_scope, call, *arguments))
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        raise KeyboardInterrupt from None
    [result] = outcome
    if isinstance(result, BaseException):
        raise result
    return result


async def _keep(outcome: list[T | BaseException], call: Callable[[], Coroutine[Any, Any, T]], /) -> None:
    """Keep what a call returns or raises, but for a cancellation."""
    try:
        outcome.append(await call())
    except anyio.get_cancelled_exc_class():
        raise
    except BaseException as error:  # noqa: BLE001 -- raised in the caller
        outcome.append(error)


async def run_to_its_end(call: Callable[[*Ts], Coroutine[Any, Any, T]], /, *arguments: *Ts) -> T:
    """As `run_uninterrupted`, for what is done also where the caller was cancelled before it begins."""
    loop = asyncio_loop()
    if loop is not None:
        task = loop.create_task(call(*arguments))
        _unlist(task)
        if await _end_of(task):
            raise modules["asyncio"].CancelledError
        return task.result()
    result: list[T] = []
    with anyio.CancelScope(shield=True):
        result.append(await call(*arguments))
    return result[0]


def _unlist(task: asyncio.Task[Any], /) -> None:
    """Take a task out of `asyncio.all_tasks()`."""
    modules["asyncio"]._unregister_task(task)  # noqa: SLF001 -- documented, in "Extending asyncio"


async def _in_a_task(
    waiter: asyncio.Future[None], call: Callable[[*Ts], Coroutine[Any, Any, T]], /, *arguments: *Ts
) -> T:
    try:
        if waiter.cancelled():  # the caller was, before this began
            await waiter
        return await call(*arguments)
    finally:
        if not waiter.done():  # here rather than by a callback alone, which takes a further turn of the loop
            waiter.set_result(None)


def _wake(waiter: asyncio.Future[None], _: object, /) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _end_of(task: asyncio.Task[Any], /) -> bool:
    """Wait until a task has ended, whatever cancels the caller: whether something has. What it raises is not lost, but
    nobody is warned of it.
    """
    from asyncio import CancelledError, wait

    is_cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await wait((task,))
            except CancelledError:
                is_cancelled = True
    if not task.cancelled():
        task.exception()
    return is_cancelled


async def _in_a_scope(call: Callable[[*Ts], Coroutine[Any, Any, T]], /, *arguments: *Ts) -> T:
    from trio.lowlevel import checkpoint_if_cancelled

    await checkpoint_if_cancelled()
    result: list[T] = []
    try:
        with anyio.CancelScope(shield=True):
            result.append(await call(*arguments))
    finally:
        await checkpoint_if_cancelled()
    return result[0]

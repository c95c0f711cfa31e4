"""Deadlines: what is cancelled in time, what goes on to its end, and what is left of it in the task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from running import HUNG

from accountstore.aio.shield import Deadline, to_the_end

if TYPE_CHECKING:
    from collections.abc import Coroutine

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_a_block_is_left_when_the_time_is_up() -> None:
    """What is in the block is cancelled, the task goes on behind it and can wait again."""
    reached = False
    with anyio.fail_after(HUNG):
        with Deadline(0.01).limit():
            await anyio.sleep_forever()
            reached = True
        await anyio.sleep(0)
    assert not reached


@on_asyncio
async def test_an_expiry_that_became_another_error_is_no_cancellation_of_the_task() -> None:
    """A client may make an error of its own of the cancellation: that is raised, and the task counts as uncancelled."""
    with pytest.raises(OSError, match="gave up"), Deadline(0.01).limit():
        try:
            await asyncio.sleep(HUNG)
        except asyncio.CancelledError:
            raise OSError("gave up") from None
    assert this_task().cancelling() == 0


@on_asyncio
async def test_a_cancellation_from_outside_is_not_taken_for_an_expiry() -> None:
    """A task that is cancelled in the very turn in which its time is up is cancelled."""

    async def work() -> None:
        with Deadline(0.02).limit():
            await asyncio.sleep(HUNG)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.02, task.cancel)
    await asyncio.wait((task,))
    assert task.cancelled() or task.exception() is None  # whichever came first alone
    task = asyncio.ensure_future(work())
    while not task.cancelling():  # a look at each turn of the loop misses none
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


@on_asyncio
async def test_many_calls_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred blocks of one deadline, one after another, set one timer."""
    timers: list[float] = []

    class Loop:
        def time(self) -> float:
            return asyncio.get_running_loop().time()

        def call_at(self, when: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return asyncio.get_running_loop().call_at(when, call, *arguments)

    deadline, loop = Deadline(HUNG), Loop()
    for _ in range(100):
        deadline.begin(loop, lambda: None).end()  # type: ignore[arg-type]  # a loop with what is called of it
    assert len(timers) == 1


async def test_a_cancelled_caller_begins_nothing() -> None:
    """In a scope that is cancelled already the call is not made."""
    begun = False

    async def call() -> None:
        nonlocal begun
        begun = True

    with anyio.CancelScope() as scope:
        scope.cancel()
        await to_the_end(call, Deadline(HUNG))
    assert scope.cancelled_caught
    assert not begun


@on_asyncio
async def test_a_task_that_has_cancelled_itself_begins_nothing() -> None:
    """Nor is it made where `Task.cancel()` has been called and takes effect at the next await."""
    begun = False

    async def call() -> None:
        nonlocal begun
        begun = True

    async def caller() -> None:
        this_task().cancel()
        await to_the_end(call, Deadline(HUNG))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(caller())
    assert not begun


async def test_what_has_begun_goes_on_whatever_cancels_the_caller() -> None:
    """Cancelled after any number of turns of the loop, the call has not begun or has ended when the caller goes on."""
    for turns in range(8):
        steps: list[str] = []

        async def call(steps: list[str] = steps) -> None:
            steps.append("begun")
            for _ in range(5):
                await anyio.sleep(0)
            steps.append("ended")

        async with anyio.create_task_group() as group:

            async def caller(steps: list[str] = steps, call: Any = call) -> None:
                try:
                    await to_the_end(call, Deadline(HUNG))
                finally:
                    steps.append("back")

            group.start_soon(caller)
            for _ in range(turns):
                await anyio.sleep(0)
            group.cancel_scope.cancel()
        assert steps in ([], ["back"], ["begun", "ended", "back"])


@on_asyncio
async def test_a_call_whose_task_never_ran_ends_with_the_deadline() -> None:
    """A stranger that cancels the call's own task before its first step leaves nobody waiting for ever."""
    loop = asyncio.get_running_loop()

    def stillborn(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        task.cancel()
        return task

    async def call() -> None: ...

    factory = loop.get_task_factory()
    loop.set_task_factory(stillborn)
    try:
        waiting: Coroutine[Any, Any, None] = to_the_end(call, Deadline(0.02))
        with pytest.raises(TimeoutError):
            await waiting
    finally:
        loop.set_task_factory(factory)

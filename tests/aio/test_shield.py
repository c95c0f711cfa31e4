"""Shields and calls in flight: what goes on to its end, what is ended, what is left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial
from selectors import DefaultSelector
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cancelling import by_scope, by_task, each_way, on_asyncio

from accountstore.aio.deadlines import Deadline
from accountstore.aio.shield import InFlight, run_shielded, run_to_its_end, run_uninterrupted

if TYPE_CHECKING:
    from selectors import SelectorKey

    from cancelling import Way

pytestmark = pytest.mark.anyio


class Steps:
    """A call that takes some turns of the loop, and notes what it does."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def call(self) -> str:
        self.seen.append("begun")
        for _ in range(5):
            await anyio.sleep(0)
        self.seen.append("ended")
        return "result"


# --- what goes on -----------------------------------------------------------------------------------------------------


async def test_results_and_errors_come_back() -> None:
    """What the call returns or raises is the shield's."""

    async def fail() -> None:
        raise KeyError

    assert await run_shielded(Steps().call) == "result"
    with pytest.raises(KeyError):
        await run_shielded(fail)


@each_way(by_scope, by_task)
async def test_a_cancelled_caller_begins_nothing(by: Way) -> None:
    """Where a scope is cancelled already, or `Task.cancel()` takes effect at the next await, the call is not made."""

    async def caller() -> None:
        cancels[0]()
        await run_shielded(steps.call)

    steps, cancels = Steps(), list[Any]()
    assert await by(caller, cancels.append)
    assert steps.seen == []


@pytest.mark.parametrize("turns", range(8))
async def test_what_has_begun_goes_on_whatever_cancels_the_caller(turns: int) -> None:
    """Cancelled after any number of turns of the loop, the call has not begun or has ended when the caller goes on."""

    async def caller() -> None:
        try:
            await run_shielded(steps.call)
        finally:
            steps.seen.append("back")

    steps = Steps()
    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        for _ in range(turns):
            await anyio.sleep(0)
        group.cancel_scope.cancel()
    assert steps.seen in ([], ["back"], ["begun", "ended", "back"])


async def _shielded_in_another(call: Any) -> Any:
    return await run_uninterrupted(partial(run_shielded, call))


@pytest.mark.parametrize("run", [run_uninterrupted, _shielded_in_another, run_to_its_end])
@on_asyncio
async def test_who_cancels_all_tasks_waits_for_the_call(run: Any) -> None:
    """As `asyncio.run` does at its end, and services at SIGTERM: the caller is cancelled, and the call is not, nor what
    it shields.
    """
    steps = Steps()
    before = asyncio.all_tasks()
    caller = asyncio.create_task(run(steps.call))
    while not steps.seen:
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - before
    assert others == {caller}
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    assert caller.cancelled()
    assert steps.seen == ["begun", "ended"]


@on_asyncio
async def test_a_call_whose_task_never_ran_ends() -> None:
    """A stranger that cancels the call's own task before its first step leaves nobody waiting for ever."""
    loop = asyncio.get_running_loop()

    def stillborn(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        task.cancel()
        return task

    factory = loop.get_task_factory()
    waiting = run_shielded(Steps().call)
    loop.set_task_factory(stillborn)
    try:
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        loop.set_task_factory(factory)


# --- calls in flight --------------------------------------------------------------------------------------------------


async def test_closing_ends_calls_and_those_that_wait() -> None:
    """Closing ends what is in flight, and what waits for a turn, as if its time were up; it waits for their end."""
    calls, ended = InFlight(1), list[str]()

    async def call(name: str) -> None:
        try:
            with Deadline(calls.deadlines, monotonic() + 60):
                async with calls.turns:
                    await anyio.sleep_forever()
        except TimeoutError:
            ended.append(name)

    async with anyio.create_task_group() as tasks:
        for name in ("call", "wait"):
            tasks.start_soon(call, name)
            await anyio.wait_all_tasks_blocked()
        await calls.aclose(monotonic() + 60)
        await anyio.wait_all_tasks_blocked()
        assert sorted(ended) == ["call", "wait"]
    assert calls.closed


async def test_closing_waits_no_longer_than_it_may() -> None:
    """A call that does not end keeps nobody from closing."""
    calls = InFlight(1)
    await calls.turns.acquire()
    await calls.aclose(monotonic() + 0.01)
    assert calls.closed


async def test_closing_a_storage_without_a_bound_is_done_at_once() -> None:
    """However many operations may be in flight, closing has a bounded number of turns to take."""
    calls = InFlight(10**18)
    assert calls.turns.value <= 10_000
    await calls.aclose(monotonic() + 60)
    assert calls.closed


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_a_call_that_has_ended_is_let_go() -> None:
    """Nothing is kept of what an ended call has returned."""

    class Document:
        pass

    async def call() -> Document:
        await anyio.sleep(0)
        return Document()

    kept = weakref.ref(await run_shielded(call))
    await anyio.sleep(0)
    gc.collect()
    assert kept() is None


class Idling(DefaultSelector):
    """Counts how often the event loop had nothing to do and waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        self.waits += timeout is None or timeout > 0
        return super().select(timeout)


async def _shielded(begun: asyncio.Event, go_on: asyncio.Event) -> None:
    async def call() -> None:
        begun.set()
        await go_on.wait()

    await run_shielded(call)


async def _stubborn(begun: asyncio.Event, go_on: asyncio.Event) -> None:
    begun.set()
    while not go_on.is_set():
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            continue


@pytest.mark.parametrize(("call", "chances"), [(_shielded, 2000), (_stubborn, 100)], ids=["shielded", "control"])
def test_a_caller_that_is_cancelled_sleeps_until_the_end_of_its_call(call: Any, chances: int) -> None:
    """A cancelled scope cancels again and again what awaits in it. A caller that awaits the end of a shielded call is
    not woken by that: the loop waits meanwhile. The control: what goes on without a shield lets the loop never wait.
    """

    async def main() -> int:
        begun, go_on = asyncio.Event(), asyncio.Event()
        before = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, begun, go_on)
            await begun.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await asyncio.sleep(0)
                before = selector.waits
                for _ in range(chances):
                    await asyncio.sleep(0.001)
                    if selector.waits != before:
                        break
                go_on.set()
        return selector.waits - before

    selector = Idling()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert (runner.run(main()) > 0) is (call is _shielded)

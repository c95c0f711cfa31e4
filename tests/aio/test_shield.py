"""Deadlines and shields: what goes on to its end, what is cancelled in time, what is left in the task and the loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from selectors import DefaultSelector
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cancelling import by_scope, by_task, each_way, on_asyncio

from accountstore.aio.shield import Deadline, run_shielded

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

    assert await run_shielded(Deadline(60), Steps().call) == "result"
    with pytest.raises(KeyError):
        await run_shielded(Deadline(60), fail)


@each_way(by_scope, by_task)
async def test_a_cancelled_caller_begins_nothing(by: Way) -> None:
    """Where a scope is cancelled already, or `Task.cancel()` takes effect at the next await, the call is not made."""

    async def caller() -> None:
        cancels[0]()
        await run_shielded(Deadline(60), steps.call)

    steps, cancels = Steps(), list[Any]()
    assert await by(caller, cancels.append)
    assert steps.seen == []


@pytest.mark.parametrize("turns", range(8))
async def test_what_has_begun_goes_on_whatever_cancels_the_caller(turns: int) -> None:
    """Cancelled after any number of turns of the loop, the call has not begun or has ended when the caller goes on."""

    async def caller() -> None:
        try:
            await run_shielded(Deadline(60), steps.call)
        finally:
            steps.seen.append("back")

    steps = Steps()
    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        for _ in range(turns):
            await anyio.sleep(0)
        group.cancel_scope.cancel()
    assert steps.seen in ([], ["back"], ["begun", "ended", "back"])


# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    """When the time is up the call is cancelled, and the deadline's error raised."""
    seen: list[BaseException] = []

    async def call() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(error)
            raise

    with pytest.raises(InterruptedError):
        await run_shielded(Deadline(0.01, InterruptedError), call)
    assert [type(error) for error in seen] == [anyio.get_cancelled_exc_class()]


@on_asyncio
async def test_a_call_whose_task_never_ran_ends_with_the_deadline() -> None:
    """A stranger that cancels the call's own task before its first step leaves nobody waiting for ever."""
    loop = asyncio.get_running_loop()

    def stillborn(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        task.cancel()
        return task

    factory = loop.get_task_factory()
    waiting = run_shielded(Deadline(0.02), Steps().call)
    loop.set_task_factory(stillborn)
    try:
        with pytest.raises(TimeoutError):
            await waiting
    finally:
        loop.set_task_factory(factory)


@on_asyncio
async def test_many_calls_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred calls of one deadline, one after another, set one timer."""
    timers: list[float] = []

    class Loop:
        def time(self) -> float:
            return asyncio.get_running_loop().time()

        def call_at(self, when: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return asyncio.get_running_loop().call_at(when, call, *arguments)

    deadline, loop = Deadline(60), Loop()
    for _ in range(100):
        deadline.begin(loop, lambda: None).expire = None  # type: ignore[arg-type]  # a loop with what is called of it
    assert len(timers) == 1


# --- what is left -----------------------------------------------------------------------------------------------------


class Clocked(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def test_each_call_has_its_own_time_and_none_is_cancelled_after_its_end() -> None:
    """Calls that share a deadline and hang are cancelled one by one, as the time of each is up. One that has ended by
    then is left alone, and so is the task that made it.
    """

    async def forward(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        loop.ahead += seconds
        for _ in range(10):
            await asyncio.sleep(0)

    async def main() -> None:
        deadline, task = Deadline(60), asyncio.current_task()
        calls: list[asyncio.Future[Any]] = []
        for call in (asyncio.Event().wait, Steps().call, asyncio.Event().wait):
            calls.append(asyncio.ensure_future(run_shielded(deadline, call)))
            await forward(20)
        assert [call.done() for call in calls] == [False, True, False]
        assert await run_shielded(deadline, Steps().call) == "result"
        for done in ([True, True, False], [True, True, False], [True, True, True]):
            await forward(20)
            assert [call.done() for call in calls] == done
        assert [type(call.exception()) for call in calls] == [TimeoutError, type(None), TimeoutError]
        assert task is not None
        assert task.cancelling() == 0

    with asyncio.Runner(loop_factory=Clocked) as runner:
        runner.run(main())


async def test_a_call_that_has_ended_is_let_go() -> None:
    """A deadline that has not passed keeps nothing of what an ended call has returned."""

    class Document:
        pass

    async def call() -> Document:
        await anyio.sleep(0)
        return Document()

    deadline = Deadline(60)
    kept = weakref.ref(await run_shielded(deadline, call))
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

    await run_shielded(Deadline(60), call)


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

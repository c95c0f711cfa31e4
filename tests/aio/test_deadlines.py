"""Deadlines: what is ended in time, or together with all others, and the one timer that all have."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from cancelling import by_scope, by_task, each_way, on_asyncio

from accountstore.aio.deadlines import Deadline, Deadlines

if TYPE_CHECKING:
    from cancelling import Way

pytestmark = pytest.mark.anyio


async def test_a_block_that_takes_too_long_is_cancelled() -> None:
    """When the time is up what awaits in the block is cancelled, and the block raises `TimeoutError`."""
    seen: list[BaseException] = []
    with pytest.raises(TimeoutError), Deadline(Deadlines(), monotonic() + 0.01):
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(error)
            raise
    assert [type(error) for error in seen] == [anyio.get_cancelled_exc_class()]


@pytest.mark.parametrize("by", [-1.0, 0.0])
async def test_a_deadline_that_has_passed_ends_the_block_at_its_first_await(by: float) -> None:
    """It is not run to its end because no timer rings any more."""
    with pytest.raises(TimeoutError), Deadline(Deadlines(), monotonic() + by):
        await anyio.sleep_forever()


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    """What a block returns or raises in time is its own, and a later moment changes nothing."""
    deadlines = Deadlines()
    with Deadline(deadlines, monotonic() + 0.01):
        pass
    with pytest.raises(KeyError), Deadline(deadlines, monotonic() + 0.01):
        raise KeyError
    await anyio.sleep(0.02)
    assert not deadlines.entered


async def test_what_a_block_makes_of_its_cancellation_is_its_own() -> None:
    """An error that is raised instead of the cancellation comes out, and nobody is cancelled later."""
    deadlines = Deadlines()
    with pytest.raises(KeyError), Deadline(deadlines, monotonic() + 0.01):
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError
    await anyio.sleep(0.01)


@each_way(by_scope, by_task)
async def test_a_cancelled_block_is_not_out_of_time(by: Way) -> None:
    """A block whose task or scope is cancelled passes that on."""

    async def caller() -> None:
        with Deadline(Deadlines(), monotonic() + 60):
            cancels[0]()
            await anyio.sleep_forever()

    cancels = list[Any]()
    assert await by(caller, cancels.append)


@each_way(by_task)
async def test_who_is_cancelled_and_out_of_time_is_cancelled(by: Way) -> None:
    """Where both happen at once the cancellation by others counts, as they wait for it."""

    async def caller() -> None:
        deadlines = Deadlines()
        with Deadline(deadlines, monotonic() + 60):
            cancels[0]()
            await deadlines.end_all()
            await anyio.sleep_forever()

    cancels = list[Any]()
    assert await by(caller, cancels.append)


@pytest.mark.parametrize(("outer", "inner"), [(0.01, 60), (60, 0.01), (0.01, 0.01)])
async def test_of_two_blocks_the_one_whose_time_is_up_ends(outer: float, inner: float) -> None:
    """An inner block's end is not the outer one's, and the outer one's ends both, with one error."""
    ended: list[str] = []
    deadlines, now = Deadlines(), monotonic()
    try:
        with Deadline(deadlines, now + outer):
            try:
                with Deadline(deadlines, now + inner):
                    await anyio.sleep_forever()
            except TimeoutError:
                ended.append("inner")
                await anyio.sleep(0)
    except TimeoutError:
        ended.append("outer")
    assert ended == (["inner"] if outer > inner else ["outer"])
    await anyio.sleep(0)


async def test_each_of_many_ends_in_its_own_time() -> None:
    """Deadlines may come in any order: each block ends at its own, or not at all if it is done before."""
    deadlines, ended = Deadlines(), list[int]()

    async def call(number: int, seconds: float) -> None:
        try:
            with Deadline(deadlines, monotonic() + seconds):
                await anyio.sleep(0.02 if seconds > 1 else 60)
        except TimeoutError:
            ended.append(number)

    async with anyio.create_task_group() as tasks:
        for number, seconds in enumerate((60, 0.15, 0.01, 60, 0.08)):
            tasks.start_soon(call, number, seconds)
    assert ended == [2, 4, 1]
    assert not deadlines.entered


async def test_all_are_ended_together() -> None:
    """`end_all` ends each block as its time would; one that is entered later has its own time."""
    deadlines, ended = Deadlines(), list[str]()

    async def call() -> None:
        try:
            with Deadline(deadlines, monotonic() + 60):
                await anyio.sleep_forever()
        except TimeoutError:
            ended.append("call")

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        await deadlines.end_all()
    assert ended == ["call"] * 3
    with pytest.raises(TimeoutError), Deadline(deadlines, monotonic() + 0.01):
        await anyio.sleep_forever()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_timer_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand calls set one timer. The control, `asyncio.timeout`, sets one for each."""
    loop, timers = asyncio.get_running_loop(), list[float]()
    set_timer: Any = loop.call_at

    def call_at(when: float, *arguments: Any, **keywords: Any) -> Any:
        timers.append(when)
        return set_timer(when, *arguments, **keywords)

    monkeypatch.setattr(loop, "call_at", call_at)
    deadlines = Deadlines()
    for _ in range(1000):
        with Deadline(deadlines, monotonic() + 60):
            await asyncio.sleep(0)
    assert len(timers) == 1
    await deadlines.end_all()
    for _ in range(1000):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
    assert len(timers) == 1001


@on_asyncio
async def test_no_timer_is_left() -> None:
    """Once a storage is closed its timer keeps nothing alive."""
    deadlines = Deadlines()
    with Deadline(deadlines, monotonic() + 60):
        await asyncio.sleep(0)
    assert deadlines.rings_at < float("inf")
    await deadlines.end_all()
    assert deadlines.rings_at == float("inf")


@pytest.mark.parametrize("by_timer", [False, True])
async def test_many_that_are_due_at_once_end_some_at_a_time(by_timer: bool, anyio_backend_name: str) -> None:
    """A thousand blocks that end in the same moment leave other tasks their turns."""
    if by_timer and anyio_backend_name == "trio":
        pytest.skip("trio has timers of its own")
    deadlines, ended, steps, by = Deadlines(), list[int](), 0, monotonic() + (0.3 if by_timer else 60)

    async def call() -> None:
        try:
            with Deadline(deadlines, by):
                await anyio.sleep_forever()
        except TimeoutError:
            ended.append(steps)

    async def step() -> None:
        nonlocal steps
        while len(ended) < 1000:
            steps += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(call)
        tasks.start_soon(step)
        await anyio.sleep(0)
        if not by_timer:
            await anyio.sleep(0)
            await deadlines.end_all()
    assert max(Counter(ended).values()) <= 2 * 256


@on_asyncio
async def test_what_is_no_task_spoils_no_timer() -> None:
    """A coroutine that somebody steps by hand is refused, and the deadlines of others go on."""
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    failed: asyncio.Future[str] = loop.create_future()

    def enter() -> None:
        try:
            with Deadline(deadlines, monotonic() + 0.01):
                raise AssertionError
        except RuntimeError as error:
            failed.set_result(str(error))

    loop.call_soon(enter)
    assert await failed == "the store is used outside of a task"
    with pytest.raises(TimeoutError), Deadline(deadlines, monotonic() + 0.02):
        await anyio.sleep_forever()


def test_calls_of_a_closed_loop_keep_nobody_from_closing() -> None:
    """Where an event loop was closed with a call under way, there is nothing left to end."""
    deadlines = Deadlines()

    async def call() -> None:
        with Deadline(deadlines, monotonic() + 60):
            await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    task = loop.create_task(call())
    loop.run_until_complete(asyncio.sleep(0))
    assert deadlines.entered
    loop.close()
    asyncio.run(deadlines.end_all())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore  -- asyncio's own

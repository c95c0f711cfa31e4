"""Clients of asyncio on trio: where their coroutines run, what comes back, and what is left when they are closed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from accountstore.aio.loops import AsyncioThread as Bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

on_trio = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])


@pytest.fixture
def before() -> Iterator[frozenset[threading.Thread]]:
    """The threads that there were before; the test leaves none of asyncio's beside them."""
    threads = frozenset(threading.enumerate())
    yield threads
    assert loops(threads) == []


def loops(before: frozenset[threading.Thread], /) -> list[threading.Thread]:
    """The threads since started that run an asyncio loop of the library's."""
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("accountstore") and thread.is_alive()
    ]


@on_trio
async def test_a_client_that_asks_for_the_threads_loop_finds_the_running_one(
    before: frozenset[threading.Thread],
) -> None:
    """Some clients ask asyncio's policy for the loop of their thread instead of for the running one: it is the same."""

    async def both() -> tuple[object, object]:
        policy = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]  # in 3.14; clients still ask it
        return asyncio.get_running_loop(), policy.get_event_loop()

    bridge = Bridge()
    running, of_the_thread = await bridge.run(both)
    assert running is of_the_thread
    await bridge.aclose()


@on_trio
async def test_results_and_errors_come_back(before: frozenset[threading.Thread]) -> None:
    """What a coroutine returns or raises is the call's, from one asyncio loop for all calls, in one thread that ends
    when the bridge is closed.
    """

    async def answer(number: int) -> tuple[int, object]:
        await asyncio.sleep(0)
        if number == 3:
            raise KeyError(number)
        return number, asyncio.get_running_loop()

    async def call(number: int) -> None:
        try:
            results[number] = await bridge.run(lambda: answer(number))
        except KeyError as error:
            results[number] = error

    results: dict[int, object] = {}
    bridge = Bridge()
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(call, number)
    assert isinstance(results.pop(3), KeyError)
    numbers, running = zip(*[result for result in results.values() if isinstance(result, tuple)], strict=True)
    assert set(numbers) == {0, 1, 2, 4}
    assert len({id(loop) for loop in running}) == 1
    assert len(loops(before)) == 1
    await bridge.aclose()


@on_trio
async def test_a_cancelled_call_is_awaited_to_its_end(before: frozenset[threading.Thread]) -> None:
    """A cancellation reaches the coroutine as asyncio's own; the caller goes on when it has ended."""
    steps: list[str] = []
    begun = threading.Event()

    async def slow() -> None:
        begun.set()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            steps.append("cancelled")
            for _ in range(20):
                await asyncio.sleep(0)
            steps.append("ended")
            raise

    bridge = Bridge()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.run, slow)
        with anyio.fail_after(20):
            while not begun.is_set():
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert steps == ["cancelled", "ended"]
    await bridge.aclose()


@on_trio
async def test_a_caller_that_is_cancelled_already_begins_nothing(before: frozenset[threading.Thread]) -> None:
    """In a cancelled scope the coroutine is not made, and no thread is started for it."""
    begun: list[str] = []

    async def call() -> None:
        begun.append("begun")

    bridge = Bridge()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bridge.run(call)
    assert scope.cancelled_caught
    assert begun == []
    assert loops(before) == []
    await bridge.aclose()


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_on_asyncio_a_coroutine_is_awaited_where_it_is_called(before: frozenset[threading.Thread]) -> None:
    """There is no thread and no second loop."""

    async def where() -> tuple[object, int]:
        return asyncio.get_running_loop(), threading.get_ident()

    bridge = Bridge()
    assert await bridge.run(where) == (asyncio.get_running_loop(), threading.get_ident())
    assert loops(before) == []
    await bridge.aclose()

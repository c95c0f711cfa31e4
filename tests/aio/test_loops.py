"""Clients of asyncio on trio: where their coroutines run, what comes back, and what is left when they are closed."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from typing import TYPE_CHECKING
from unittest.mock import Mock

import anyio
import pytest
from running import HUNG

from accountstore import UnavailableError
from accountstore.aio.loops import AsyncioBridge, asyncio_loop, on_asyncio, running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

on_trio = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])


class Client:
    """An object with methods that run on asyncio."""

    def __init__(self) -> None:
        self.before = threading.enumerate()
        self.bridge = AsyncioBridge()

    def threads(self) -> int:
        """How many threads with asyncio loops there are."""
        names = [thread.name for thread in threading.enumerate() if thread not in self.before]
        return names.count("accountstore asyncio")

    @on_asyncio
    async def running(self) -> object:
        """The running loop."""
        return asyncio.get_running_loop()

    @on_asyncio
    async def of_the_thread(self) -> object:
        """The loop of the thread, for which some clients ask asyncio's policy."""
        policy = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]  # in 3.14; clients still ask it
        return policy.get_event_loop()

    @on_asyncio
    async def answer(self, number: int, /, *, but: int) -> tuple[int, object]:
        """An answer, or an error."""
        await asyncio.sleep(0)
        if number == but:
            raise KeyError(number)
        return number, asyncio.get_running_loop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client; when it is closed it has no thread."""
    opened = Client()
    yield opened
    await opened.bridge.aclose()
    assert opened.threads() == 0


@on_trio
async def test_on_trio_a_method_runs_on_a_loop_in_a_thread(client: Client) -> None:
    """There is one thread, with one loop, which is that thread's for asyncio's policy too."""
    assert await client.running() is await client.running() is await client.of_the_thread()
    assert client.threads() == 1


@on_trio
async def test_a_thread_that_cannot_be_started_is_started_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread for the loop, each call is refused, until it has one again."""
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    for _ in range(2):
        with pytest.raises(UnavailableError, match="no thread can be started"):
            await client.running()
    monkeypatch.undo()
    with anyio.fail_after(HUNG):
        await client.running()


@on_trio
async def test_a_loop_without_a_descriptor_is_made_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process may open no file for the loop, nothing was sent, and the next call makes it."""
    full = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(asyncio, "new_event_loop", Mock(side_effect=full))
    with pytest.raises(UnavailableError, match="Too many open files") as caught:
        await client.running()
    assert not caught.value.sent
    monkeypatch.undo()
    with anyio.fail_after(HUNG):
        await client.running()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_a_method_runs_where_it_is_called(client: Client) -> None:
    """There is no thread and no second loop."""
    assert await client.running() is asyncio_loop() is running_loop()
    assert client.threads() == 0


async def test_results_and_errors_come_back(client: Client, anyio_backend_name: str) -> None:
    """What a method returns or raises is the call's, from one asyncio loop for all calls."""

    async def call(number: int) -> None:
        try:
            results[number] = await client.answer(number, but=3)
        except KeyError as error:
            results[number] = error

    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(call, number)
    assert isinstance(results.pop(3), KeyError)
    numbers, loops = zip(*[result for result in results.values() if isinstance(result, tuple)], strict=True)
    assert set(numbers) == {0, 1, 2, 4}
    assert len(set(map(id, loops))) == 1


@on_trio
async def test_a_cancelled_call_is_awaited_to_its_end(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A cancellation reaches the coroutine as asyncio's own; the caller goes on when it has ended, and an error that it
    ends with is no noise.
    """
    steps: list[str] = []
    begun = threading.Event()

    async def slow() -> None:
        begun.set()
        try:
            await asyncio.sleep(HUNG)
        except asyncio.CancelledError:
            steps.append("cancelled")
            for _ in range(20):
                await asyncio.sleep(0)
            steps.append("ended")
            raise OSError from None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.bridge.run, slow)
        await anyio.to_thread.run_sync(begun.wait, HUNG)
        tasks.cancel_scope.cancel()
    assert steps == ["cancelled", "ended"]
    gc.collect()
    assert caplog.records == []


@on_trio
async def test_a_caller_that_is_cancelled_already_begins_nothing(client: Client) -> None:
    """In a cancelled scope the coroutine is not made, and no thread is started for it."""
    begun: list[str] = []

    async def call() -> None:
        begun.append("begun")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.bridge.run(call)
    assert scope.cancelled_caught
    assert begun == []
    assert client.threads() == 0


async def test_outside_of_a_loop_none_runs() -> None:
    """There is no running loop in a thread without one."""
    assert await anyio.to_thread.run_sync(lambda: (asyncio_loop(), running_loop())) == (None, None)
    assert running_loop() is not None

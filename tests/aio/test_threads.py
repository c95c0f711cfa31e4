"""Threads: as many as are needed on asyncio, none after closing, and none that keeps a program."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import Mock

import anyio
import pytest
from running import HUNG, PYTHON

from accountstore import ClosedError, UnavailableError
from accountstore.aio.threads import Fence, Lazy, ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
TOTAL = 8


class Started:
    """The threads that were started since this was made."""

    def __init__(self) -> None:
        self._before = threading.enumerate()

    def now(self) -> list[threading.Thread]:
        """Those of the library that are alive."""
        threads = [thread for thread in threading.enumerate() if thread not in self._before]
        return [thread for thread in threads if thread.name == "accountstore"]

    def join(self) -> None:
        """Wait until all have ended."""
        for thread in self.now():
            thread.join(HUNG)
        assert self.now() == []


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    """A pool, closed at the end."""
    opened = ThreadPool(TOTAL)
    yield opened
    opened.close()


async def _at_once(pool: ThreadPool, call: Callable[[], object]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(TOTAL):
            tasks.start_soon(pool.run, call)


@on_asyncio
async def test_calls_one_after_another_share_a_thread(pool: ThreadPool) -> None:
    """A thread is started where more calls are under way than there are threads, and not for each call."""
    started = Started()
    idents = {await pool.run(threading.get_ident) for _ in range(100)}
    assert len(idents) == len(started.now()) == 1


async def test_results_and_errors_come_back(pool: ThreadPool) -> None:
    """What the function returns or raises is the call's."""
    assert await pool.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)


async def test_slow_calls_run_side_by_side_after_many_quick_ones(pool: ThreadPool) -> None:
    """However many calls have ended, as many slow ones as come at once are made at once."""
    for _ in range(100):
        await pool.run(int)
    together = threading.Barrier(TOTAL)
    await _at_once(pool, partial(together.wait, HUNG))  # nobody goes on before all are there
    assert not together.broken


@on_asyncio
async def test_closing_ends_the_threads(pool: ThreadPool) -> None:
    """All threads end when the pool is closed, while it is still held; it takes no call then."""
    started = Started()
    await _at_once(pool, partial(threading.Barrier(TOTAL).wait, HUNG))
    assert len(started.now()) == TOTAL
    pool.close()
    await anyio.to_thread.run_sync(started.join)
    with pytest.raises(ClosedError):
        await pool.run(int)


async def test_threads_that_cannot_be_started_cost_none_of_those_that_can(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for which the system has no thread is refused and forgotten: later, as many run side by side as before."""
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    for _ in range(TOTAL):
        with pytest.raises(UnavailableError, match="no thread can be started"):
            await pool.run(int)
    monkeypatch.undo()
    assert await pool.run(int) == 0
    together = threading.Barrier(TOTAL)
    await _at_once(pool, partial(together.wait, HUNG))
    assert not together.broken


def test_a_call_that_ends_after_its_loop_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was given up may end when its event loop is closed: nobody hears of it, and its thread ends with the
    pool, not by an error.
    """
    noises: list[object] = []
    monkeypatch.setattr(threading, "excepthook", noises.append)
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert release.wait(HUNG)

    async def main() -> None:
        task = asyncio.ensure_future(ThreadPool(TOTAL).run(wait))
        await asyncio.to_thread(entered.wait, HUNG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = Started()
    asyncio.run(main())
    assert len(started.now()) == 1
    release.set()
    gc.collect()  # the pool was dropped: its threads end
    started.join()
    assert noises == []


PROGRAM = """
import sys, threading, anyio
from accountstore.aio.threads import ThreadPool

entered = threading.Event()

def hang():
    entered.set()
    threading.Event().wait()

async def main():
    pool = ThreadPool(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run, hang)
        while not entered.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    pool.close()
    print("left", flush=True)

anyio.run(main, backend=sys.argv[1])
print("ends", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_ends_although_a_call_hangs(backend: str) -> None:
    """A disk that never answers keeps neither a cancelled call, nor the closing of its pool, nor the program."""
    command = [*PYTHON, "-c", PROGRAM, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\nends\n", "")


async def test_as_many_calls_may_hang_as_are_few() -> None:
    """Sixteen calls that hang keep the only thread of a pool from nobody; whoever gives one up is told to end it."""
    pool = ThreadPool(1)
    go_on, told = threading.Event(), list[str]()
    for _ in range(16):
        entered = threading.Event()

        def hang(entered: threading.Event = entered) -> None:
            entered.set()
            assert go_on.wait(HUNG)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(pool.run, hang, give_up=lambda: told.append("it")))
            while not entered.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    assert await pool.run(int, give_up=lambda: told.append("not this")) == 0
    assert told == ["it"] * 16
    go_on.set()
    pool.close()


def test_a_lazy_thing_is_made_once_until_it_is_taken() -> None:
    """All threads get the one that the first of them makes; after it was taken out, another one."""
    together = threading.Barrier(TOTAL)

    def get() -> None:
        together.wait(HUNG)
        got.append(lazy.get())

    got: list[object] = []
    lazy = Lazy(object)
    assert lazy.take() is None
    with ThreadPoolExecutor(TOTAL) as threads:
        for _ in range(TOTAL):
            threads.submit(get)
    assert len(got) == TOTAL
    assert set(got) == {lazy.take()}
    assert lazy.get() not in got


async def test_a_cancelled_caller_waits_for_what_is_just_being_published() -> None:
    """It has the result: the caller knows that the write was done. On trio, too, it is woken then."""
    pool = ThreadPool(1)
    publishing, go_on = threading.Event(), threading.Event()
    results: list[str] = []

    def publish(fence: Fence) -> str:
        with fence:
            publishing.set()
            assert go_on.wait(HUNG)
        return "published"

    async def call() -> None:
        results.append(await pool.run_fenced(publish))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        while not publishing.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
        threading.Timer(0.1, go_on.set).start()
    pool.close()
    assert results == ["published"]

"""ThreadPool of a local storage on asyncio: as many as needed, none after closing, and none that keeps a program."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from running import HUNG, PYTHON

from accountstore import Account, AccountStore, Location, PasswordCredentials, StorageConfig, StoreConfig
from accountstore.backends.local.syscalls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

AT = Location("email.account")
ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
AT_ONCE = 12
"""Fewer than a storage has threads at most."""


def opened(root: Path, /) -> AbstractAsyncContextManager[AccountStore]:
    return AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(root))}))


@pytest.fixture
def before() -> frozenset[threading.Thread]:
    """The threads of the library that stores of other tests may have left to the garbage collector."""
    return frozenset(threading.enumerate())


def started(before: frozenset[threading.Thread], /) -> list[threading.Thread]:
    """The library's threads that were started since."""
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("accountstore") and thread.is_alive()
    ]


def ended(threads: list[threading.Thread], /) -> bool:
    """Whether all of them end, within ten seconds."""
    until = time.monotonic() + 10
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what happens before each read of a document's bytes, in the thread that makes it."""
    real: Any = SystemCalls.read
    hooks: list[Callable[[], object]] = []

    def read(fd: int, size: int, /) -> bytes:
        for hook in hooks:
            hook()
        return bytes(real(fd, size))

    monkeypatch.setattr(SystemCalls, "read", staticmethod(read))
    yield hooks.append
    hooks.clear()


def test_calls_one_after_another_share_a_thread(tmp_path: Path, before: frozenset[threading.Thread]) -> None:
    """A thread is started where more calls are under way than there are threads, and not for each call."""

    async def main() -> int:
        async with opened(tmp_path) as store:
            await store.save(AT, ACCOUNT)
            for _ in range(100):
                await store.get(AT)
            return len(started(before))

    assert asyncio.run(main()) == 1


def test_slow_calls_run_side_by_side_after_many_quick_ones(
    tmp_path: Path, reads: Callable[[Callable[[], object]], None]
) -> None:
    """However many calls have ended, as many slow ones as come at once are made at once."""
    together = threading.Barrier(AT_ONCE)

    async def main() -> list[Account]:
        async with opened(tmp_path) as store:
            await store.save(AT, ACCOUNT)
            for _ in range(100):
                await store.get(AT)
            reads(lambda: together.wait(20))  # nobody goes on before all are there
            return await asyncio.gather(*(store.get(AT) for _ in range(AT_ONCE)))

    assert asyncio.run(main()) == [ACCOUNT] * AT_ONCE


def test_closing_ends_the_threads(
    tmp_path: Path, before: frozenset[threading.Thread], reads: Callable[[Callable[[], object]], None]
) -> None:
    """All threads of a storage end when it is closed, and not only when somebody drops the store."""
    together = threading.Barrier(AT_ONCE)

    async def use(store: AccountStore) -> list[threading.Thread]:
        await store.save(AT, ACCOUNT)
        await anext(store.get_many([AT]))
        reads(lambda: together.wait(20))
        await asyncio.gather(*(store.get(AT) for _ in range(AT_ONCE)))
        return started(before)

    async def main() -> tuple[AccountStore, list[threading.Thread]]:
        async with opened(tmp_path) as store:
            return store, await use(store)

    store, threads = asyncio.run(main())
    assert len(threads) >= AT_ONCE
    assert ended(threads)
    assert store.storages == ("main",)  # it is still held here


def test_a_call_that_ends_after_its_loop_ends_in_silence(
    tmp_path: Path,
    before: frozenset[threading.Thread],
    reads: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read that was given up may end when its event loop is closed: nobody hears of it, and its thread ends with the
    store, not by an error.
    """
    noises: list[object] = []
    monkeypatch.setattr(threading, "excepthook", noises.append)
    reading, release = threading.Event(), threading.Event()

    def wait() -> None:
        reading.set()
        assert release.wait(20)

    async def main() -> list[threading.Thread]:
        store = await AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path))}))
        await store.save(AT, ACCOUNT)
        reads(wait)
        task = asyncio.ensure_future(store.get(AT))
        while not reading.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return started(before)

    threads = asyncio.run(main())
    assert threads
    assert all(thread.is_alive() for thread in threads)
    release.set()
    gc.collect()  # the store was dropped: its threads end
    assert ended(threads)
    assert noises == []


PROGRAM = f"""
import sys
import threading

import anyio

from accountstore import Account, AccountStore, Location, PasswordCredentials, StorageConfig, StoreConfig
from {SystemCalls.__module__} import SystemCalls

AT = Location("email.account")
ACCOUNT = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
reading = threading.Event()


def hang(fd, size):
    reading.set()
    threading.Event().wait()


async def main():
    async with AccountStore.open(StoreConfig(storages={{"main": StorageConfig(sys.argv[1])}})) as store:
        await store.save(AT, ACCOUNT)
        SystemCalls.read = staticmethod(hang)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.get, AT)
            while not reading.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    print("left", flush=True)


anyio.run(main, backend=sys.argv[2])
print("ends", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_ends_although_a_call_hangs(tmp_path: Path, backend: str) -> None:
    """A disk that never answers keeps neither a cancelled read, nor the closing of its store, nor the program."""
    done = subprocess.run(
        [*PYTHON, "-c", PROGRAM, str(tmp_path), backend],
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\nends\n", "")

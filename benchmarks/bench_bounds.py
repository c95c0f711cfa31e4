"""What a store takes under load: descriptors, threads, connections, memory, and stalls of the event loop.

What was there before the load is frozen (`gc.freeze`), as services do once they have started: else a collection of all
that the clients' packages have loaded is the longest stall, 30 ms and more, whatever the store does.
"""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING

import anyio

from accountstore import AccountStore, Location, MultiAccount, Stored, Version
from benchmarks.harness import Count, Goal
from benchmarks.samples import MULTI
from benchmarks.servers import S3, serving
from benchmarks.sides import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from benchmarks.harness import Workspace

_DOCUMENTS = 1024
_ACCOUNTS = 1000
_EVERY = 0.005
_TITLE = "the most at a time, with 1,024 documents of 145 KB"
_STALL = "longest stall, ms"
_COLLECTION = "longest garbage collection, ms"
_GOALS = {_STALL: Goal("at most", 50)}


class _Peaks:
    """The highest figures of this process since it was made."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {_COLLECTION: 0}
        self._before = self._now()
        self._before["threads"] += 1  # the one that looks
        self._collection = perf_counter()

    def _now(self) -> dict[str, int]:
        files: list[str] = []
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # closed meanwhile
                files.append(os.readlink(f"/proc/self/fd/{name}"))
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        return {
            "descriptors": len(files),
            "connections": sum(file.startswith("socket:") for file in files),
            "threads": len(os.listdir("/proc/self/task")),
            "memory, MB": pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000,
        }

    def look(self) -> None:
        """Take what there is now for a peak, if it is one."""
        for name, number in self._now().items():
            self.note(name, number - self._before[name])

    def collecting(self, phase: str, _: object, /) -> None:
        """Note how long a garbage collection takes: it calls this before and after."""
        if phase == "start":
            self._collection = perf_counter()
        else:
            self.note(_COLLECTION, (perf_counter() - self._collection) * 1000)

    def note(self, name: str, number: float, /) -> None:
        """Keep the higher one."""
        self.numbers[name] = max(number, self.numbers.get(name, 0))


@contextmanager
def _watched(peaks: _Peaks, /) -> Generator[None]:
    """Look again and again, in a thread of its own."""
    done = Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            peaks.look()

    thread = Thread(target=watch)
    thread.start()
    gc.collect()
    gc.freeze()
    gc.callbacks.append(peaks.collecting)
    try:
        yield
    finally:
        gc.callbacks.remove(peaks.collecting)
        gc.unfreeze()
        done.set()
        thread.join()


async def _beat(peaks: _Peaks, /) -> None:
    """Note how much later than asked for the event loop wakes this task."""
    while True:
        started = perf_counter()
        await anyio.sleep(_EVERY)
        peaks.note(_STALL, (perf_counter() - started - _EVERY) * 1000)


async def _load(store: AccountStore, locations: Sequence[Location], document: MultiAccount, /) -> None:
    """All documents at once, by a task each, and by batches."""
    async with anyio.create_task_group() as tasks:
        for location in locations:
            tasks.start_soon(store.save_multi, location, document)
    async with anyio.create_task_group() as tasks:
        for location in locations:
            tasks.start_soon(store.get_multi, location)
    async for _, saved in store.save_many((location, document) for location in locations):
        assert isinstance(saved, Version), saved
    async for _, got in store.get_many(locations):
        assert isinstance(got, Stored), got


async def bounds(work: Workspace, /) -> AsyncGenerator[list[Count]]:
    document = MultiAccount(receive_accounts=(MULTI.receive_accounts[0],) * _ACCOUNTS)
    locations = [Location(f"user{i}.multi.account") for i in range(8 if work.quick else _DOCUMENTS)]
    counts: list[Count] = []
    with serving() as stub:
        stores = {
            "memory": open_store("memory://"),
            "local": open_store(work.folder),
            **{f"S3, {package}": S3.open(package, stub.url) for package in S3.packages},
        }
        for name, opening in stores.items():
            async with opening as store:
                await store.save_multi(locations[0], document)
                peaks = _Peaks()
                with _watched(peaks):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_beat, peaks)
                        await _load(store, locations, document)
                        tasks.cancel_scope.cancel()
            counts += [Count(_TITLE, name, what, round(peak), _GOALS.get(what)) for what, peak in peaks.numbers.items()]
    yield counts

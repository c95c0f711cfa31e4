"""Where batches are done: the protocol, and this process."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from accountstore.migration.merge import Item
from accountstore.migration.records import Done
from accountstore.migration.work import Job, Worker

MOST = 500
"""Names in a batch, at most."""
_FIRST = 16
_SECONDS = 2.0
_DEATHS = 2


class Batch(Struct, frozen=True, eq=False):
    """Items that a worker was given, and what became of them."""

    items: Sequence[Item]
    done: Sequence[Done]


def told_by_worker(items: Sequence[Item], done: Sequence[Done], job: Job, /) -> Batch:
    """A batch as a worker tells it, which may have been another's that died: what was listed at the source alone, and
    is at the target alone, was moved by that one.
    """
    if not job.options.delete_source:
        return Batch(items, done)
    pairs = zip(items, done, strict=True)
    return Batch(items, [replace(one, outcome="moved") if _was_moved(item, one) else one for item, one in pairs])


def _was_moved(item: Item, done: Done, /) -> bool:
    return done.outcome == "foreign" and item.listed and item.source is not None and item.target is None


class Runner(Protocol):
    """Where batches are done."""

    own_store: bool
    """Whether on the store of the run itself."""

    @property
    def room(self) -> int:
        """How many batches it takes now."""
        ...

    @property
    def size(self) -> int:
        """How many items a batch should have now."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a batch that it was given is not done."""
        ...

    def submit(self, items: Sequence[Item], /) -> None:
        """Take a batch."""
        ...

    async def next(self) -> Batch:
        """A batch that is done. After a cancellation it goes on."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


class Task(Struct, frozen=True, eq=False):
    """A batch that is with a worker in another process, and how many such it has outlived."""

    items: Sequence[Item]
    deaths: int = 0

    def after_death(self) -> Sequence[Task] | Batch:
        """What is done when its worker has died with it: again, then in halves; one that is alone has failed."""
        if self.deaths + 1 < _DEATHS:
            return (Task(self.items, self.deaths + 1),)
        if len(self.items) == 1:
            reason = "source: the process that copied it ended, each time"
            return Batch(self.items, (Done(self.items[0].name, "failed", error="BackendError", reason=reason),))
        half = len(self.items) // 2
        return Task(self.items[:half], self.deaths), Task(self.items[half:], self.deaths)


class Here:
    """Does batches in this process, one after another."""

    own_store = True

    def __init__(self, worker: Worker, /) -> None:
        self._worker = worker
        self._size = _FIRST
        self._items: Sequence[Item] = ()

    @property
    def room(self) -> int:
        """One batch, when it has none."""
        return 0 if self._items else 1

    @property
    def size(self) -> int:
        """As many as take seconds, so that a run tells how it goes on; with a rate, those of a second."""
        return min(self._size, MOST, self._worker.in_a_second or MOST)

    @property
    def busy(self) -> bool:
        """Whether it has one."""
        return bool(self._items)

    def submit(self, items: Sequence[Item], /) -> None:
        """Take it."""
        self._items = items

    async def next(self) -> Batch:
        """Do it."""
        began = monotonic()
        batch = Batch(self._items, await self._worker.work(self._items))
        self._items = ()
        if monotonic() - began < _SECONDS:
            self._size = min(2 * self._size, MOST)
        elif self._size > _FIRST:
            self._size //= 2
        return batch

    async def aclose(self) -> None:
        """There is nothing to let go of: the store is another's."""

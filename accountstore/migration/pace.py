"""How many requests are under way: more and more, half as many where a storage is busy (AIMD)."""

from __future__ import annotations

import time

import anyio

from accountstore.events import Event

_FIRST = 16
_MORE = 8
_BUSY = frozenset({"UnavailableError", "UncertainError"})


class Pace:
    """The concurrency that each storage bears: additive increase, multiplicative decrease.

    It listens to the events of the store. A window of documents in which a storage was asked again, or gave no answer,
    halves that storage's; any other adds to it, and doubles it until a storage was busy for the first time.
    """

    def __init__(self, most: int, requests_per_second: float | None = None, /) -> None:
        self._most = most
        self._limits: dict[str, int] = {}
        self._busy: set[str] = set()
        self._doubling = True
        self._rate = requests_per_second
        self._free_at = 0.0

    @property
    def concurrency(self) -> int:
        """How many documents may be under way: as many as the slower storage bears."""
        return min(self._limits.values(), default=min(_FIRST, self._most))

    def limit(self, storage: str, /) -> int:
        """How many requests a storage bears."""
        return self._limits.get(storage, min(_FIRST, self._most))

    def observe(self, event: Event, /) -> None:
        """An event of the store: whether a storage was busy."""
        self._busy.update(event.retries)
        if event.outcome in _BUSY:
            self._busy.add(event.storage)
            if event.target is not None:
                self._busy.add(event.target.storage or event.storage)

    def settle(self, *storages: str) -> None:
        """A window with these storages is over."""
        self._doubling = self._doubling and not self._busy
        for storage in storages:
            limit = self.limit(storage)
            more = 2 * limit if self._doubling else limit + _MORE
            self._limits[storage] = max(1, limit // 2) if storage in self._busy else min(self._most, more)
        self._busy.clear()

    async def wait(self, requests: int, /) -> None:
        """Wait until so many requests more keep the rate that was asked for."""
        if self._rate is not None:
            now = time.monotonic()
            begins = max(now, self._free_at)
            self._free_at = begins + requests / self._rate
            await anyio.sleep(begins - now)

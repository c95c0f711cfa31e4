"""Limits: token buckets, quotas of clients, and how many requests are in flight."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from accountstore.gateway.problems import Problem

__all__ = ("Bucket", "Quota", "Turns")

Clock = Callable[[], float]


class Bucket:
    """A token bucket: `size` at once, and `rate` a second in the long run."""

    __slots__ = ("_clock", "_left", "_rate", "_seen", "_size")

    def __init__(self, rate: float, size: float, clock: Clock = time.monotonic, /) -> None:
        self._rate = rate
        self._size = size
        self._clock = clock
        self._left = size
        self._seen = clock()

    def has(self) -> bool:
        """Whether one can be taken."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._seen) * self._rate)
        self._seen = now
        return self._left >= 1

    def take(self) -> bool:
        """Take one, if there is one."""
        if not self.has():
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Put one back that was taken."""
        self._left = min(self._size, self._left + 1)


class Turns:
    """So many at once, and no queue: `with turns` raises the problem where none is free."""

    def __init__(self, limit: float, problem: Callable[[], Problem], /) -> None:
        self.taken: int = 0
        self._limit = limit
        self._problem = problem

    def __enter__(self) -> None:
        if self.taken >= self._limit:
            raise self._problem()
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


class Quota:
    """What one client may ask for: requests a second, and at once. `with quota` is one; it raises `Problem` (429)."""

    def __init__(self, rate: float | None, concurrency: int | None, clock: Clock = time.monotonic, /) -> None:
        self._bucket = None if rate is None else Bucket(rate, max(rate, 1), clock)
        self._turns = Turns(inf if concurrency is None else concurrency, too_many)

    def __enter__(self) -> None:
        if self._bucket is not None and not self._bucket.take():
            raise too_many()
        self._turns.__enter__()

    def __exit__(self, *_: object) -> None:
        self._turns.__exit__()


def too_many() -> Problem:
    """The problem of a client that asks for more than its share."""
    return Problem(429, "tooMany", "too many requests of this client: wait")


def too_busy() -> Problem:
    """The problem of a gateway that has enough to do."""
    return Problem(503, "busy", "the gateway has too many requests in flight: try again")

"""Limits: token buckets, quotas of clients, and how many requests are in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

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


class Turns:
    """So many at once, and no queue: whoever finds none free is refused."""

    def __init__(self, limit: int | None, problem: Callable[[], Problem], /) -> None:
        self.taken = 0
        self._limit = limit
        self._problem = problem

    @contextmanager
    def turn(self) -> Generator[None]:
        """One turn. Raises the problem where all are taken."""
        if self._limit is not None and self.taken >= self._limit:
            raise self._problem()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Quota:
    """What one client may ask for: requests a second, and at once."""

    def __init__(self, rate: float | None, concurrency: int | None, clock: Clock = time.monotonic, /) -> None:
        self._bucket = None if rate is None else Bucket(rate, max(rate, 1), clock)
        self._turns = Turns(concurrency, too_many)

    @contextmanager
    def turn(self) -> Generator[None]:
        """One request. Raises `Problem` where the client has had its share."""
        if self._bucket is not None and not self._bucket.take():
            raise too_many()
        with self._turns.turn():
            yield


def too_many() -> Problem:
    """The problem of a client that asks for more than its share."""
    return Problem(429, "tooMany", "too many requests of this client: wait")


def too_busy() -> Problem:
    """The problem of a gateway that has enough to do."""
    return Problem(503, "busy", "the gateway has too many requests in flight: try again")

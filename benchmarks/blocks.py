"""Interleaved measuring: contenders take turns in one run, and only their ratios within a block are compared."""

from __future__ import annotations

from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

__all__ = (
    "Case",
    "Comparison",
    "Contender",
    "Count",
    "Effort",
    "Goal",
    "LeftOut",
    "Measure",
    "Round",
    "Run",
    "Summary",
    "Tally",
    "Workspace",
    "added",
    "in_flight",
    "measure",
    "rate",
    "ratio",
    "speedup",
    "summarise",
    "timed",
    "timed_calls",
)

_RESAMPLES = 2000
_TASKS = 64

Run: TypeAlias = "Callable[[int], Awaitable[float]]"
"""Does the operation so many times and says how many seconds it took."""
Measure: TypeAlias = "Callable[[float, float], float]"
"""One number from a block's seconds of the library and of the other side."""


def timed(operation: Callable[[int], Awaitable[object]], clock: Callable[[], float] = perf_counter, /) -> Run:
    """Run an asynchronous operation again and again; it is given a counter that goes on from slice to slice."""
    done = 0

    async def run(count: int) -> float:
        nonlocal done
        first, done = done, done + count
        started = clock()
        for i in range(first, first + count):
            await operation(i)
        return clock() - started

    return run


def in_flight(operation: Callable[[int], Awaitable[object]], tasks: int = _TASKS, /) -> Run:
    """As `timed`, by so many tasks at once: each does its share, one operation after another."""
    done = 0

    async def share(numbers: range) -> None:
        for i in numbers:
            await operation(i)

    async def run(count: int) -> float:
        nonlocal done
        first, done = done, done + count
        started = perf_counter()
        async with anyio.create_task_group() as group:
            for task in range(min(tasks, count)):
                group.start_soon(share, range(first + task, first + count, tasks))
        return perf_counter() - started

    return run


def timed_calls(operation: Callable[[int], object], /) -> Run:
    """As `timed`, for an operation that is a plain function."""
    done = 0

    async def run(count: int) -> float:
        nonlocal done
        first, done = done, done + count
        started = perf_counter()
        for i in range(first, first + count):
            operation(i)
        return perf_counter() - started

    return run


class Contender(NamedTuple):
    """One side of a comparison. `atomic` and `durable` say what its writes promise, where that matters."""

    name: str
    run: Run
    atomic: str = ""
    durable: str = ""


class Effort(NamedTuple):
    """How much work a block is: each contender's operations, in so many turns of so many operations."""

    turns: int
    operations: int


class Goal(NamedTuple):
    """The bound that a summary is held to."""

    kind: Literal["at most", "at least"]
    bound: float

    def met(self, value: float, /) -> bool:
        """Whether a median keeps to the bound."""
        return value <= self.bound if self.kind == "at most" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.kind} {self.bound:g}"


def ratio(ours: float, theirs: float, /) -> float:
    """The library's time over the other's."""
    return ours / theirs


def speedup(ours: float, theirs: float, /) -> float:
    """The other's time over the library's."""
    return theirs / ours


def rate(ours: float, theirs: float, /) -> float:
    """The library's operations a second over the other's."""
    return theirs / ours


def added(ours: float, theirs: float, /) -> float:
    """Microseconds an operation that the library takes more than the other."""
    return (ours - theirs) * 1e6


_UNITS: Mapping[Measure, str] = {
    ratio: "x the time",
    speedup: "times as fast",
    rate: "x the rate",
    added: "us added",
}


class Comparison(NamedTuple):
    """The first contender, or the contender `ours`, against the contender `other`."""

    other: str
    measure: Measure = ratio
    goal: Goal | None = None
    ours: str = ""

    @property
    def unit(self) -> str:
        """What the number is."""
        return _UNITS[self.measure]


class Round(NamedTuple):
    """Contenders that are measured in one run, the library first, and what is asked of their times."""

    title: str
    contenders: Sequence[Contender]
    comparisons: Sequence[Comparison]
    effort: Effort
    notes: Sequence[str] = ()


class Count(NamedTuple):
    """How many requests an operation sent to a storage."""

    storage: str
    operation: str
    requests: int
    goal: Goal | None = None


class Tally(NamedTuple):
    """What is counted, not timed."""

    title: str
    counts: Sequence[Count]


class LeftOut(NamedTuple):
    """What cannot be measured here, and why."""

    title: str
    reason: str


class Case(NamedTuple):
    """A named group of rounds. `rounds` prepares one, yields it, and clears up when the next is asked for."""

    name: str
    rounds: Callable[[Workspace], AsyncGenerator[Round | Tally | LeftOut]]


class Workspace(NamedTuple):
    """Where a case may write, and whether it is to do little work."""

    folder: str
    quick: bool

    def effort(self, turns: int, operations: int, /) -> Effort:
        """This much work, or little."""
        return Effort(1, min(operations, 4)) if self.quick else Effort(turns, operations)


class Summary(NamedTuple):
    """The median of one number over all blocks, with its bootstrap 95 % interval."""

    median: float
    low: float
    high: float
    values: Sequence[float]


async def measure(contenders: Sequence[Contender], effort: Effort, blocks: int, /) -> Mapping[str, Sequence[float]]:
    """Seconds an operation for each contender and block, after a block that is not counted.

    The contenders take turns within a block, forwards and backwards, so that what changes with time falls on all.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for block in range(-1, blocks):
        totals = dict.fromkeys(seconds, 0.0)
        for turn in range(effort.turns):
            order = contenders if (block + turn) % 2 == 0 else tuple(reversed(contenders))
            for contender in order:
                totals[contender.name] += await contender.run(effort.operations)
        if block >= 0:
            for name, total in totals.items():
                seconds[name].append(total / (effort.turns * effort.operations))
    return seconds


def summarise(values: Sequence[float], /) -> Summary:
    """Median and bootstrap 95 % interval: the middle 95 % of the medians of resamples, the same on every run."""
    draw = Random(0)
    medians = [median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES)]
    cuts = quantiles(medians, n=40, method="inclusive")
    return Summary(median(values), cuts[0], cuts[-1], values)

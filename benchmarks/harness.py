"""Interleaved measuring: contenders take turns in one run, and only their ratios within a block are compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

TASKS = 64
"""Operations in flight."""
_RESAMPLES = 2000

Operation: TypeAlias = "Callable[[int], Awaitable[object]]"
"""What is timed. It is given a counter that goes on from turn to turn."""
Run: TypeAlias = "Callable[[int], Awaitable[float]]"
"""Does the operation so many times and says how many seconds it took."""
Rounds: TypeAlias = "AsyncGenerator[Round | Sequence[Count]]"
"""A group of rounds, which prepares one, yields it, and clears up when the next is asked for; or of counts."""


def timed(operation: Operation, /, clock: Callable[[], float] = perf_counter) -> Run:
    """Run an operation again and again."""
    numbers = count()

    async def run(times: int) -> float:
        started = clock()
        for i in islice(numbers, times):
            await operation(i)
        return clock() - started

    return run


def in_flight(operation: Operation, tasks: int = TASKS, /) -> Run:
    """As `timed`, by so many tasks at once: each does its share, one operation after another."""
    numbers = count()

    async def share(mine: Sequence[int]) -> None:
        for i in mine:
            await operation(i)

    async def run(times: int) -> float:
        turn = list(islice(numbers, times))
        started = perf_counter()
        async with anyio.create_task_group() as group:
            for task in range(min(tasks, times)):
                group.start_soon(share, turn[task::tasks])
        return perf_counter() - started

    return run


class Effort(NamedTuple):
    """How much work a block is for each contender: so many turns of so many operations."""

    turns: int
    operations: int


class Goal(NamedTuple):
    """The bound that a number is held to."""

    kind: Literal["at most", "at least"]
    bound: float

    def met(self, value: float, /) -> bool:
        """Whether the number keeps to the bound."""
        return value <= self.bound if self.kind == "at most" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.kind} {self.bound:g}"


@dataclass(frozen=True)
class Measure:
    """One number from a block's seconds of the library and of the other side."""

    unit: str
    of: Callable[[float, float], float]


RATIO = Measure("x the time", lambda ours, theirs: ours / theirs)
SPEEDUP = Measure("times as fast", lambda ours, theirs: theirs / ours)
RATE = Measure("x the rate", lambda ours, theirs: theirs / ours)
ADDED = Measure("us added", lambda ours, theirs: (ours - theirs) * 1e6)


class Comparison(NamedTuple):
    """The first contender, or the contender `ours`, against the contender `other`."""

    other: str
    goal: Goal | None = None
    measure: Measure = RATIO
    ours: str = ""


class Round(NamedTuple):
    """Contenders that are measured in one run, the library first, and what is asked of their times."""

    title: str
    contenders: Mapping[str, Run]
    comparisons: Sequence[Comparison]
    effort: Effort
    note: str = ""


class Count(NamedTuple):
    """A number that is counted of an operation."""

    title: str
    storage: str
    operation: str
    number: int
    goal: Goal | None = None


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
    blocks: Sequence[float]

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


async def measure(
    contenders: Mapping[str, Run], effort: Effort, /, blocks: int, after_turn: Callable[[], None] | None = None
) -> Mapping[str, Sequence[float]]:
    """Seconds an operation for each contender and block, after a block that is not counted.

    The contenders take turns within a block, forwards and backwards, so that what changes with time falls on all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for block in range(-1, blocks):
        totals = dict.fromkeys(seconds, 0.0)
        for turn in range(effort.turns):
            for name in contenders if (block + turn) % 2 == 0 else reversed([*contenders]):
                totals[name] += await contenders[name](effort.operations)
                if after_turn:
                    after_turn()
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

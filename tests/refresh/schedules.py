"""Every schedule of some tasks that refresh one document in memory, each through a store of its own.

A task goes from point to point: a request, a step of the exchange, a pause. A schedule is the order in which they take
their steps; each is run from the beginning, and the next one differs from it in one step (a depth-first search). Orders
that only swap steps which do not meet, such as two reads, are the same to everybody, and run once (sleep sets:
Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996). A pause ends when the document has
changed, or when time has passed, for which all must be at rest: a poll in between would see nothing new.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import anyio

from accountstore import AccountStore, Location
from accountstore.backends.memory import MemoryBackend
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

    import pytest
    from providers import SmallProvider

    from accountstore import Version
    from accountstore.backends.base import Blob, Stat, WriteMode
    from accountstore.grant import TokenGrant
    from accountstore.model import OAuthCredentials

    Caller: TypeAlias = "Callable[[AccountStore, Callable[[OAuthCredentials], Awaitable[TokenGrant]]], Awaitable[Any]]"

AT = Location("a.account")
LEASE = 10.0
TIME = -1
"""The step in which the lease's length passes."""

Point: TypeAlias = Literal["read", "write", "send", "answer", "pause"]
_SHARED: dict[Point, str] = {"read": "document", "write": "document", "pause": "document", "send": "provider"}
_HARMLESS: set[Point] = {"read", "pause", "answer"}
_BOUND = 200
_task: ContextVar[int] = ContextVar("task", default=-1)


class Fault(NamedTuple):
    """The first task is dead, or stands still until time has passed, when it has taken so many steps.

    A task that stood still finds at its end that its time is up; or, if it is `late`, the answer that it waited for.
    """

    kind: Literal["crash", "stall", "late"]
    steps: int


class _Over(BaseException):
    """Ends a task: nothing of the library catches it."""


class Run:
    """One schedule under way."""

    def __init__(self, provider: SmallProvider, fault: Fault | None, tasks: int, /) -> None:
        self.provider = provider
        self.fault = fault
        self.memory = MemoryBackend()
        self.now = 1000.0
        self.at: dict[int, Point] = {}
        self.steps = [0] * tasks
        self.outcomes: dict[int, Any] = {}
        self.gates: dict[int, asyncio.Event] = {}
        self.news = [True] * tasks
        """Whether a pause of the task would end."""
        self.scopes: dict[int, tuple[float, anyio.CancelScope]] = {}
        self.holder: int | None = None
        self.wrong: list[str] = []
        self.is_over = False
        self.spenders: list[int] = []

    def is_hit(self, task: int, /) -> bool:
        """Whether the fault keeps a task from going on."""
        return self.fault is not None and task == 0 and self.steps[0] == self.fault.steps

    def enabled(self) -> Mapping[int, Point | None]:
        """The tasks that can take a step, and what it is; or time, where nobody can."""
        free: dict[int, Point | None] = {
            task: point
            for task, point in sorted(self.at.items())
            if (point != "pause" or self.news[task]) and not (self.is_hit(task) and (self.is_dead or self.now < 1001))
        }
        at_rest = bool(self.at.keys() - free.keys() - ({0} if self.is_dead else set()))
        time: dict[int, Point | None] = {TIME: None} if at_rest else {}
        return free or time

    @property
    def is_dead(self) -> bool:
        """Whether the first task has crashed."""
        return self.is_hit(0) and 0 not in self.outcomes and self.fault is not None and self.fault.kind == "crash"

    def _is_out_of_reach(self, task: int, /) -> bool:
        """Whether its time-out does not reach a task: it is dead, or its answer is there already."""
        is_late = self.fault is not None and self.fault.kind == "late" and self.at[task] == "answer"
        return self.is_dead or is_late

    async def gate(self, point: Point, /) -> None:
        """A task is at a point, until it is let through."""
        task = _task.get()
        if task < 0:
            return
        if self.is_over:
            raise _Over
        self.at[task] = point
        self.gates[task] = asyncio.Event()
        try:
            await self.gates[task].wait()
        finally:
            self.at.pop(task, None)
        if self.is_over:
            raise _Over

    def end(self) -> None:
        """End the tasks that have not ended: no cancellation would, as they are in the midst of an exchange."""
        self.is_over = True
        for gate in self.gates.values():
            gate.set()

    async def take(self, task: int, /) -> None:
        """Let a task take its step, or time pass, and wait until all are at a point again."""
        if task == TIME:
            self.now += 2 * LEASE
            self.news = [True] * len(self.news)
            for one, (until, scope) in self.scopes.items():
                if until <= self.now and self.at.get(one) in {"send", "answer"} and not self._is_out_of_reach(one):
                    self.at.pop(one)
                    self.steps[one] += 1
                    scope.cancel()
        else:
            point = self.at.pop(task)
            self.steps[task] += 1
            if point == "read":
                self.news[task] = False
            elif point == "write":
                self.news = [True] * len(self.news)
            elif point == "send" and self.holder not in {task, 0 if self.now > 1000 or self.is_dead else None}:
                self.wrong.append(f"task {task} spends a token while task {self.holder} has the lease")
            self.gates[task].set()
        for _ in range(10_000):
            await asyncio.sleep(0)
            if len(self.at) + len(self.outcomes) == len(self.steps):
                return
        raise AssertionError("a task is stuck between two points")


class _Gated(MemoryBackend):
    """The shared memory, as one task reaches it."""

    def __init__(self, run: Run, /) -> None:
        super().__init__()
        self._run = run

    async def read(self, key: str, /, *, limit: int) -> Blob:
        await self._run.gate("read")
        return await self._run.memory.read(key, limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        await self._run.gate("write")
        stat = await self._run.memory.write(key, data, mode=mode, write_token=write_token)
        if _task.get() >= 0:
            self._run.holder = _task.get() if b'"holder"' in data else None
        return stat

    async def stat(self, key: str, /) -> Stat:
        return await self._run.memory.stat(key)

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        raise NotImplementedError


def _clock(now: Callable[[], float], /) -> type[datetime]:
    """The class `datetime` by another clock."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(now(), tz)

    return Clock


class Schedules:
    """Runs schedules; the library's clocks and pauses are theirs meanwhile, so that a machine that stands still, for
    longer than a deadline or a token's life, is not seen in them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: Caller, /, tasks: int = 3) -> None:
        self._call = call
        self._tasks = tasks
        self._current: Run
        for module in ("lease", "refresh"):
            monkeypatch.setattr(f"accountstore.{module}.elapsed", self._now)
        for module in ("aio.shield", "client", "leased", "refresh", "retry", "updating"):
            monkeypatch.setattr(f"accountstore.{module}.monotonic", self._now)
        for module in ("accountstore.lease", "fsspec.implementations.memory"):
            monkeypatch.setattr(f"{module}.datetime", _clock(self._now))
        shim = SimpleNamespace(
            CancelScope=anyio.CancelScope,
            WouldBlock=anyio.WouldBlock,
            move_on_after=self._move_on_after,
            sleep=self._sleep,
        )
        for module in ("leased", "refresh", "retry"):
            monkeypatch.setattr(f"accountstore.{module}.anyio", shim)

    def _now(self) -> float:
        return self._current.now

    async def _sleep(self, _: float, /) -> None:
        await self._current.gate("pause")

    def _move_on_after(self, seconds: float, /) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        if _task.get() >= 0:
            self._current.scopes[_task.get()] = self._current.now + seconds, scope
        return scope

    async def _one(self, run: Run, task: int, /) -> None:
        _task.set(task)

        async def exchange(credentials: OAuthCredentials, /) -> TokenGrant:
            await run.gate("send")
            answer: TokenGrant | Exception
            try:
                answer = run.provider.spend(credentials)
                run.spenders.append(task)
            except Exception as error:
                answer = error
            await run.gate("answer")
            if isinstance(answer, Exception):
                raise answer
            return answer

        try:
            outcome: Any = await self._call(store_over({"m": _Gated(run)}, timeout=10**6), exchange)
        except Exception as error:
            outcome = error
        run.outcomes[task] = outcome

    async def all(
        self, make: Callable[[], SmallProvider], fault: Fault | None = None, *, most: int = 10**9
    ) -> list[Run]:
        """Run all schedules, at most so many; each to its end."""
        runs: list[Run] = []
        path: list[_Node] = []
        while len(runs) < most:
            run = await self._follow(path, make(), fault)
            if run is not None:
                runs.append(run)
            while path and not path[-1].turn():
                path.pop()
            if not path:
                break
        return runs

    async def _follow(self, path: list[_Node], provider: SmallProvider, fault: Fault | None, /) -> Run | None:
        """Run the schedule of a path and go on to its end, which is added to it; None: it was run before."""
        run = self._current = Run(provider, fault, self._tasks)
        await store_over({"m": run.memory}, timeout=10**6).save(AT, provider.account())
        workers = [asyncio.ensure_future(self._one(run, task)) for task in range(self._tasks)]
        while len(run.at) < self._tasks:
            await asyncio.sleep(0)
        try:
            for depth in range(_BOUND):
                enabled = run.enabled()
                if not enabled:
                    return run
                if depth == len(path):
                    asleep = path[-1].sleepers() if path else {}
                    path.append(_Node(enabled, {task: asleep[task] for task in asleep if task in enabled}))
                    if not path[-1].turn():
                        path.pop()
                        return None
                path[depth].check(enabled)
                await run.take(path[depth].choice)
            raise AssertionError(f"no end after {_BOUND} steps")
        finally:
            run.end()
            await asyncio.gather(*workers, return_exceptions=True)


class _Node:
    """A state of the search: what could be done in it, what was, and what need not be."""

    def __init__(self, enabled: Mapping[int, Point | None], asleep: Mapping[int, Point | None], /) -> None:
        self._enabled = enabled
        self._asleep = dict(asleep)
        self._left = self._choices()
        self.choice = TIME

    def check(self, enabled: Mapping[int, Point | None], /) -> None:
        """Raise unless this state is the one that the same steps led to before."""
        if enabled != self._enabled:
            raise AssertionError(f"the same steps led to {self._enabled} before, and to {enabled} now")

    def _choices(self) -> Generator[int]:
        for task, point in self._enabled.items():
            if task not in self._asleep:
                yield task
                self._asleep[task] = point

    def turn(self) -> bool:
        """Choose the next step. Whether there is one."""
        choice = next(self._left, None)
        if choice is None:
            return False
        self.choice = choice
        return True

    def sleepers(self) -> dict[int, Point | None]:
        """The steps that need not come right after the chosen one: before it they were tried, and are the same."""
        chosen = self._enabled[self.choice]
        return {task: point for task, point in self._asleep.items() if task != self.choice and not meet(point, chosen)}


def meet(one: Point | None, other: Point | None, /) -> bool:
    """Whether the order of two steps of different tasks matters."""
    if one is None or other is None:
        return True
    shared = _SHARED.get(one)
    return shared is not None and shared == _SHARED.get(other) and not {one, other} <= _HARMLESS

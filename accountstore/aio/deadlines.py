"""Deadlines of the calls of one storage: each call ends in time, or all of them together."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from sys import modules
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint
from msgspec import Struct

from accountstore.aio.loops import asyncio_loop

if TYPE_CHECKING:
    import asyncio


_AT_ONCE = 256
"""Blocks that are ended in a turn of the event loop: what each does then takes it some 50 us."""
_APART = 0.01
"""Seconds from one look at the blocks to the next, which takes a millisecond where there are ten thousand."""


class Deadlines:
    """Of the calls under way: one timer for all of them.

    On asyncio `asyncio.timeout` sets a timer for each call and takes it back, which is a quarter of the time of a `get`
    from memory (4 of 16 us); here that happens about once in the time that a call may take.
    """

    def __init__(self) -> None:
        self.entered: set[Deadline] = set()
        self.rings_at: float = inf
        self.loop: object = None
        """Of the timer."""
        self._timer: asyncio.TimerHandle | None = None

    async def end_all(self) -> None:
        """Cancel the blocks that are entered, as if their time were up."""
        self._stop_timer()
        while due := [deadline for deadline in self.entered if not deadline.expired]:
            for deadline in due[:_AT_ONCE]:
                deadline.expire()
            if len(due) > _AT_ONCE:
                await checkpoint()

    def set_timer(self, at: float, loop: asyncio.AbstractEventLoop, /) -> None:
        """Ring at a moment of `time.monotonic()`, and no longer at another one."""
        self._stop_timer()
        self.rings_at, self.loop = at, loop
        self._timer = loop.call_later(max(0.0, at - monotonic()), self._ring, loop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.rings_at = None, inf

    def _ring(self, loop: asyncio.AbstractEventLoop, /) -> None:
        """End the blocks whose time is up, some in each turn of the event loop, and set the timer for the next."""
        now, waiting = monotonic(), [deadline for deadline in self.entered if not deadline.expired]
        due = [deadline for deadline in waiting if deadline.by <= now]
        next_at = min((deadline.by for deadline in waiting if deadline.by > now), default=inf)
        self._stop_timer()
        if len(due) > _AT_ONCE:
            self.set_timer(now, loop)
        elif next_at < inf:
            self.set_timer(max(next_at, now + _APART), loop)
        for deadline in due[:_AT_ONCE]:
            deadline.expire()


class Deadline(Struct, eq=False):
    """A `with` block that is cancelled at a moment of `time.monotonic()`, or with all others, and then raises
    `TimeoutError`. A cancellation by others goes on as it is, as with `asyncio.timeout`.
    """

    among: Deadlines
    by: float
    expired: bool = False
    task: Any = None
    """On asyncio, with how often others had asked it to end before."""
    cancelling: int = 0
    scope: Any = None
    """On trio, whose own timers cost little."""
    is_late: bool = False
    """Whether that has ended it."""

    def __enter__(self) -> None:
        among = self.among
        if "trio" in modules and asyncio_loop() is None:
            self.scope = anyio.move_on_after(self.by - monotonic())
            self.scope.__enter__()
            among.entered.add(self)
            return
        self.task = modules["asyncio"].current_task()
        if self.task is None:
            raise RuntimeError("the store is used outside of a task")
        self.cancelling = self.task.cancelling()
        loop = self.task.get_loop()
        if self.by < among.rings_at or loop is not among.loop:
            among.set_timer(self.by, loop)
        among.entered.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.among.entered.discard(self)
        if self.scope is not None:
            self.scope.__exit__(kind, error, at)
            self.is_late = self.scope.cancelled_caught
        else:
            is_ours = self.expired and self.task.uncancel() <= self.cancelling
            self.is_late = is_ours and isinstance(error, modules["asyncio"].CancelledError)
        if self.is_late:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block: its time is up."""
        self.expired = True
        if self.scope is not None:
            self.scope.cancel()
        else:
            with suppress(RuntimeError):  # its event loop was closed
                self.task.cancel()

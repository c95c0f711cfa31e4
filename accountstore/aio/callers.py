"""The thread that waits for a call, where synchronous code has made it: there its functions run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from accountstore.aio.loops import asyncio_loop

T = TypeVar("T")


class Caller(Protocol):
    """A thread that waits for a call on an event loop, and calls functions meanwhile."""

    @property
    def loop(self) -> object:
        """The event loop of the call."""
        ...

    def ask(self, function: Callable[[], T], /) -> Awaitable[T]:
        """The function's result, from that thread."""
        ...


CALLER: ContextVar[Caller | None] = ContextVar("accountstore_caller", default=None)
"""Who waits for this task's call; None: a task on the same event loop."""


async def in_caller(function: Callable[[], T], /) -> T:
    """The result of a function that a caller has given, in the caller's thread: whatever it uses may be bound to that,
    and it may wait for other calls.
    """
    caller: Any = CALLER.get()
    if caller is None or caller.loop is not asyncio_loop():  # a function of the call has an event loop of its own
        return function()
    result: T = await caller.ask(function)
    return result
